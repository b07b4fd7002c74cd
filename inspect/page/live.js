// While the runs go on: asks the server for what is new, shows it, and says how things stand.
const token = new URLSearchParams(location.search).get("token"), state = make("p");
state.setAttribute("role", "status");
document.getElementById("title").after(state);
function say(kind, text) { if (state.textContent !== text) { state.className = "live " + kind; state.textContent = text; } }

const spoken = s => s < 120 ? `${10 * Math.floor(s / 10)} s` : s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;

// Whether anything is new.
function take(news) {
  let changed = JSON.stringify(news.differences) !== JSON.stringify(data.differences);
  data.differences = news.differences;
  data.runs = data.runs.map((old, i) => {
    const now = news.runs[i], goes_on = now.generation === old.generation && now.from === old.rows.length;
    changed = changed || !goes_on || now.rows.length > 0 || ["name", "config", "tokens", "summary", "ending", "note", "setting", "left_out", "seconds", "steps", "parameters"].some(k => JSON.stringify(now[k]) !== JSON.stringify(old[k]));
    return {...now, rows: goes_on ? old.rows.concat(now.rows) : now.rows};
  });
  return changed;
}
// How things stand. quiet_seconds: null where there is no metrics.jsonl; held: whether a process trains into the folder, null where that is not known.
function stand() {
  const going = data.runs.filter(r => !ended(r)), alone = data.runs.length < 2, named = list => list.map(r => isolated(r.name)).join(", ");
  if (!going.length) return say("finished", [...new Set(data.runs.map(r => r.ending || "finished"))].join(", "));
  const gone = going.filter(r => r.quiet_seconds === null && r.rows.length), left = going.filter(r => r.held === false && !gone.includes(r));
  const others = going.filter(r => !gone.includes(r) && !left.includes(r)), quiet = Math.min(...others.map(r => r.quiet_seconds || 0));
  const said = [];
  if (others.length) said.push(quiet < 60 ? "live" : `live; nothing new for ${spoken(quiet)}`);
  if (left.length) said.push(`nothing trains into ${alone ? "it" : named(left)} now; --resume continues it`);
  if (gone.length) said.push(`the files${alone ? "" : ` of ${named(gone)}`} are gone; what was read of them stays here`);
  say(others.length ? "on" : left.length ? "left" : "lost", said.join("; "));
}
const anew = "norma watch was started anew and has another address: open the one that it printed";
async function ask() {
  let news;
  try {
    const since = data.runs.map(r => `${r.generation}.${r.rows.length}`).join("_");
    const answer = await fetch("/data?" + new URLSearchParams({token, since}), {cache: "no-store", signal: AbortSignal.timeout(10000)});
    if (answer.ok) news = await answer.json();
    else say("lost", answer.status === 403 ? anew : `norma watch says: ${await answer.text()}`);
  } catch (e) {
    say("lost", "connection lost; has norma watch ended? Asking again every two seconds");
  }
  setTimeout(ask, 2000);
  if (!news) return;
  if (take(news)) update();
  stand();
}
ask();
