// What the runs are, what a reader must know of them, and runs of one setting together.
// The steps that a run gave up after; with --anomaly it stopped before them.
function skipped(r) {
  const end = last(r.train), count = end && r.left_out === "diverged" ? end.skipped_in_a_row : 0;
  return count ? ` at step ${end.step + 1 - count} (${count} skipped)` : "";
}
// Where there is no status.json that can be read, a summary says it.
const ended = r => r.ending || r.summary;
// Of a live page: whether all have ended, and well.
const endMark = () => !data.live || !runs.every(ended) ? "" : runs.every(r => (r.ending || "finished") === "finished") ? "✓ " : "✗ ";
// What N is, of every run whose matrices are here.
function tokensHere() {
  const known = runs.filter(r => r.tokens > 0 && r.train.some(x => (x.attention || []).length));
  return [...new Set(known.map(r => tokensOf(r.tokens, r.config.pool === "cls")))].join("; or ");
}
// Where a number is not what its name says.
function remarksOn({config, train}) {
  const logged = field => train.some(x => (x.attention || []).some(a => a[field]));
  const {clamp, penalty, label_smoothing: smoothing} = config, out = [];
  if (clamp) out.push(`--clamp ${clamp}: its Jacobian is that of the function before the clamp.`);
  if (penalty) out.push(`--penalty ${penalty}: its training loss includes ${penalty.replace(/^fro:/, "")} × mean ‖A‖_F; its test loss does not.`);
  if (smoothing > 0) out.push(`--label-smoothing ${smoothing}: its training loss is that of the smoothed targets; its test loss is not.`);
  if (config.pool === "cls" && logged("fro")) out.push("--pool cls: of the last block's attention the head reads the class token's row alone, so ‖∂L/∂A‖_F and ‖∂L/∂S‖_F are norms of that one row there, and of all rows in earlier blocks.");
  // Earlier versions logged the error alone. The lines of norma compare.
  if (logged("sampled") || logged("fro_error")) out.push(`attention in linear form: all but ${logged("fro_error") ? "" : "‖A‖_F and "}the sums of rows are estimates from 48 rows a head, and extremes bounds. --attention-form quadratic is exact.`);
  return out;
}
function who() {
  document.title = endMark() + data.title;
  byId("title").textContent = data.title;
  const same = k => runs.every(r => r.config[k] === runs[0].config[k]), told = (k, text = String) => same(k) ? text(runs[0].config[k]) : `(several: ${[...new Set(runs.map(r => text(r.config[k])))].join(", ")})`;
  const intro = `${told("model")}, width ${told("width")}, depth ${told("depth")}, heads ${told("heads")}, on ${told("data")} with patch ${told("patch")}; ` +
    `batch ${told("batch")}, epochs ${told("epochs")}, ${runs.some(r => r.config.steps > 0) ? `--steps ${told("steps", n => n > 0 ? n : "no limit")}, ` : ""}${told("optimizer")} at ${told("lr")}, seed ${told("seed")}.` +
    (layers || groupNames.length ? " Blocks and heads are counted from 0, as in blocks.0.attn, metrics.jsonl and TensorBoard." : "");
  put(byId("intro"), intro); put(byId("symbols").lastElementChild, symbols(tokensHere())); byId("symbols").hidden = !layers;
  const legend = make("div"), notes = make("div");
  const said = {"not ended": "has not ended", interrupted: "was interrupted", "not finite": "ended with numbers that are not finite"};
  const entry = (text, draw) => { const e = make("span", undefined, legend); draw(svg("svg", {viewBox: "0 0 42 8", "aria-hidden": true}, e)); make("span", text, e); };
  const single = r => entry(broken(r) ? `${r.label} (${r.left_out})` : r.label, picture => sample(r, picture));
  if (!grouped) runs.forEach(single);
  else {
    for (const g of groups) {
      if (g.runs.length < 2) { g.runs.forEach(single); continue; }
      const n = g.members.length, band = picture => svg("rect", {class: "band", x: 0, y: 0, width: 32, height: 8, fill: g.look.color}, picture);
      entry(`${g.runs[0].brief || g.name} · ${n > 1 ? meanOf(meanOfCurves(g.members.map(r => r.train.map(x => [x.epoch, 0])))) : n ? isolated(g.members[0].name) : "no run"}`,
            picture => { if (n > 1) band(picture); sample(n ? g.look : g.runs[0], picture); });
    }
    entry("band: least to largest run" + (groups.some(g => g.aside.length) ? "; dotted: runs in no mean" : ""), picture => svg("rect", {class: "band", x: 0, y: 0, width: 32, height: 8, fill: "var(--soft)"}, picture));
  }
  const note = text => { formula(make("p", text, notes)).className = "note"; }, leaves = runs.some(r => !broken(r)) ? ", and may leave a chart, whose scale is that of the others" : "";
  for (const r of runs) {
    if (broken(r)) note(`${r.label}: ${said[r.left_out] || r.left_out}${skipped(r)}.${dotted(r) ? ` Its curves are dotted${grouped ? ", in no mean over runs" : ""}${leaves}.` : ""}`);
    else if (grouped && apart(r)) note(`${r.label}: in no mean over runs (${r.left_out}).`);
  }
  for (const r of runs) {
    if (r.note) note(r.note);
    if (!r.rows.length) note(`${r.label}: nothing has been logged yet.`);
  }
  const remarks = new Map();  // and whose they are
  for (const r of runs) for (const text of remarksOn(r)) remarks.set(text, [...(remarks.get(text) || []), isolated(r.name)]);
  for (const [text, names] of remarks) note(`${runs.length > 1 && names.length === runs.length ? "Every run" : names.join(", ")}: ${text}`);
  for (const [id, now] of [["legend", legend], ["notes", notes]])  // what did not change may be selected
    if (byId(id).innerHTML !== now.innerHTML) byId(id).replaceChildren(...now.childNodes);
  byId("together").hidden = !groups.some(g => g.members.length > 1);
}
// Settings or single runs; what stands open stays so.
function chooseTogether() {
  const buttons = [["Settings: mean over seeds", true], ["Single runs", false]].map(([text, value]) => [value, pressable(byId("together"), text, together === value, () => {
    together = value;
    for (const [v, b] of buttons) b.setAttribute("aria-pressed", v === together);
    update();
  })]);
}

// What runs of one setting say together, where there are several of one.
function bySetting(parent) {
  const box = make("div", undefined, parent);
  make("h3", "By setting", box);
  make("p", "Runs that differ in their seed alone (and in where they lie, what they write down, and what rounds otherwise): mean ± sample standard deviation over the runs that finished, one a seed.", box);
  const norm = r => mean(((last(r.train) || {}).attention || []).map(a => mean(a.fro))), fixed = n => v => v.toFixed(n);
  cells(box, "By setting", ["setting", "in the mean", "left out", "test accuracy", "test loss", "‖A‖_F, last, mean over blocks"], () => groups.map(g => {
    const counted = g.runs.filter(r => !r.left_out);
    return [g.name, String(counted.length), String(g.runs.length - counted.length), withSpread(counted.map(r => r.summary.test_accuracy), v => fixed(2)(100 * v), " %"),
            withSpread(counted.map(r => r.summary.test_loss), fixed(4)), withSpread(counted.map(norm), (v, deviation) => v !== 0 && (v < 0.001 || v >= 1e5) ? v.toExponential(2) : deviation > 0 ? v.toFixed(Math.min(9, Math.max(0, 1 - Math.floor(Math.log10(deviation))))) : v.toPrecision(3))];
  }));
  const differences = make("div", undefined, box);
  show(() => { box.hidden = groups.every(g => g.runs.length < 2); differences.replaceChildren(...data.differences.map(text => make("p", text))); });
}
