// While the runs go on: asks the server for what is new, shows it, and says how things stand.
const token = new URLSearchParams(location.search).get("token"), state = make("p");
state.setAttribute("role", "status");
document.getElementById("title").after(state);
function say(kind, text) { if (state.textContent !== text) { state.className = "live " + kind; state.textContent = text; } }

const spoken = s => s < 120 ? `${Math.round(s)} s` : s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
const ended = r => r.ending ? r.ending : r.summary && !r.rows.some(row => row.step > r.summary.steps);  // a run that was resumed leaves its old summary behind

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
async function ask() {
  try {
    const since = data.runs.map(r => `${r.generation}.${r.rows.length}`).join("_");
    const answer = await fetch("/data?" + new URLSearchParams({token, since}), {cache: "no-store", signal: AbortSignal.timeout(10000)});
    if (!answer.ok) { say("lost", answer.status === 403 ? "norma watch was started anew and has another address: open the one that it printed" : `norma watch says: ${await answer.text()}`); return setTimeout(ask, 2000); }
    if (take(await answer.json())) update();
    const going = data.runs.filter(r => !ended(r)), quiet = Math.min(...going.map(r => r.quiet_seconds));
    if (!going.length) say("finished", [...new Set(data.runs.map(r => r.ending || "finished"))].join(", "));
    else say("on", quiet < 60 ? "live" : `live; nothing new for ${spoken(quiet)}`);
  } catch (e) {
    say("lost", "connection lost; has norma watch ended? Asking again every two seconds");
  }
  setTimeout(ask, 2000);
}
ask();
