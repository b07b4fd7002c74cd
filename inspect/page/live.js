// While the runs go on: asks the server for what is new, shows it, and says how things stand.
const token = new URLSearchParams(location.search).get("token"), state = make("p");
state.setAttribute("role", "status");
document.getElementById("title").after(state);
function say(kind, text) { if (state.textContent !== text) { state.className = "live " + kind; state.textContent = text; } }

const spoken = s => s < 120 ? `${10 * Math.floor(s / 10)} s` : s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;

// Whether anything is new.
function take(news) {
  let changed = false;
  data.runs = data.runs.map((old, i) => {
    const now = news.runs[i], goes_on = now.generation === old.generation && now.from === old.rows.length;
    changed = changed || !goes_on || now.rows.length > 0 || ["name", "config", "tokens", "summary", "ending", "note", "setting", "left_out", "seconds", "parameters"].some(k => JSON.stringify(now[k]) !== JSON.stringify(old[k]));
    return {...now, rows: goes_on ? old.rows.concat(now.rows) : now.rows};
  });
  return changed;
}
// How things stand. quiet_seconds: null where there is no metrics.jsonl; held: whether a process trains into the folder, null where that is not known.
function stand() {
  const going = data.runs.filter(r => !ended(r)), named = list => data.runs.length < 2 ? "" : ` of ${list.map(r => isolated(r.name)).join(", ")}`;
  if (!going.length) return say("finished", [...new Set(data.runs.map(r => r.ending || "finished"))].join(", "));
  const gone = going.filter(r => r.quiet_seconds === null && r.rows.length), left = going.filter(r => r.held === false), training = going.filter(r => !gone.includes(r) && !left.includes(r));
  if (gone.length && !training.length) return say("lost", `the files${named(gone)} are gone; what was read of them stays here`);
  if (!training.length) return say("left", `nothing trains into ${data.runs.length < 2 ? "it" : left.map(r => isolated(r.name)).join(", ")} now; --resume continues it`);
  const quiet = Math.min(...training.filter(r => r.quiet_seconds !== null).map(r => r.quiet_seconds));
  const more = [...(quiet >= 60 && quiet < Infinity ? [`nothing new for ${spoken(quiet)}`] : []), ...(gone.length ? [`the files${named(gone)} are gone`] : []),
                ...(left.length ? [`nothing trains into ${left.map(r => isolated(r.name)).join(", ")} now`] : [])];
  say("on", ["live", ...more].join("; "));
}
async function ask() {
  try {
    const since = data.runs.map(r => `${r.generation}.${r.rows.length}`).join("_");
    const answer = await fetch("/data?" + new URLSearchParams({token, since}), {cache: "no-store", signal: AbortSignal.timeout(10000)});
    if (!answer.ok) { say("lost", answer.status === 403 ? "norma watch was started anew and has another address: open the one that it printed" : `norma watch says: ${await answer.text()}`); return setTimeout(ask, 2000); }
    if (take(await answer.json())) update();
    stand();
  } catch (e) {
    say("lost", "connection lost; has norma watch ended? Asking again every two seconds");
  }
  setTimeout(ask, 2000);
}
ask();
