// What the runs recorded, section by section. Runs may grow while the page is open: read() takes them from `data`, build() makes the
// sections, update() shows what is new in them, and builds again where a section is to appear.
const main = document.getElementById("main"), byId = id => document.getElementById(id);
const mean = a => a.length && a.every(drawable) ? a.reduce((s, v) => s + v, 0) / a.length : NaN;  // of all heads, or of none
const last = a => a.length ? a[a.length - 1] : undefined;
const most = (...n) => n.reduce((a, b) => Math.max(a, b), 0);
const dashes = ["", "7 3", "14 4", "9 3 2 3"], dots = "2 3";  // dots: of runs in no mean
const minutes = s => s > 0 ? s < 60 ? (s / 60).toPrecision(2) : (s / 60).toFixed(1) : "–";

// --- the runs as they are now ---
let runs, groups, grouped, layers, groupNames, shape;  // grouped: runs of one setting are shown as one
function read() {
  const brief = shortNames([...new Set(data.runs.map(r => r.setting))]);
  runs = data.runs.map((r, i) => {
    const again = data.runs.slice(0, i).filter(o => o.name === r.name).length, name = again ? `${r.name} (${again + 1})` : r.name;
    return {...r, name, brief: brief.get(r.setting), label: `${name} · ${brief.get(r.setting) || r.config.attention}`, color: `var(--c${i % 8})`, dash: broken(r) ? dots : dashes[Math.floor(i / 8) % 4],
            train: r.rows.filter(x => x.loss !== undefined), test: r.rows.filter(x => x.test_accuracy !== undefined)};
  });
  groups = groupsOf(runs);
  grouped = together && groups.some(g => g.members.length > 1);
  if (grouped) for (const g of groups) for (const r of g.runs) Object.assign(r, {color: g.color, dash: broken(r) ? dots : g.dash});
  layers = most(...runs.map(r => most(...r.train.map(x => (x.attention || []).length))));
  // Parameters come as columns of r.parameters; groups are the blocks and what stands before and after them.
  groupNames = [];
  for (const r of runs) {
    let seen = false;
    r.groups = (r.parameters || []).map(name => {
      const block = /^blocks\.(\d+)\./.exec(name);
      seen = seen || !!block;
      return block ? +block[1] + 1 : seen ? Infinity : 0;
    });
    for (const g of r.groups) if (!groupNames.includes(g)) groupNames.push(g);
  }
  groupNames.sort((a, b) => a - b);
  shape = JSON.stringify([layers, groupNames.map(String), runs.map(r => r.label)]);
}

// --- places that show them ---
let shows;  // each shows again what is new
const show = draw => { shows.push(draw); draw(); };
function section(title, text) {  // text: one, or a function that returns it
  formula(make("h2", title, main));
  if (text) { const p = make("p", undefined, main); typeof text === "string" ? p.textContent = text : show(() => { p.textContent = text(); }); }
  const grid = make("div", undefined, main); grid.className = "grid";
  return grid;
}
function plain(title, text) { const box = section(title, text); box.className = ""; return box; }
function folded(parent, title, open) { const d = make("details", undefined, parent); make("summary", title, d); d.open = !!open; return d; }
const curves = (...args) => { shows.push(chart(...args)); };
// A section of charts of one measure, with the choice of one scale for all.
function compared(title, text) {
  const grid = section(title, text), f = family(title, main);
  main.append(grid);  // behind the choice
  show(f.renew);
  return {grid, family: f};
}
function cells(parent, head, rows) { const body = table(parent, head, []); show(() => fill(body, rows())); return body; }

// --- learning ---
const line = (r, points, more) => ({name: r.label, short: r.name, color: r.color, dash: r.dash, broken: broken(r), hollow: apart(r), points, ...more});
const over = (r, rows, get, more) => line(r, rows.map(x => [x.epoch, get(x)]), more);
const smooth = points => { let v; return points.filter(p => drawable(p[1])).map(([x, y]) => [x, v = v === undefined ? y : v + 0.3 * (y - v)]); };
const smoothed = (r, get) => { const exact = r.train.map(x => [x.epoch, get(x)]); return line(r, smooth(exact), {exact}); };
const times = (v, factor) => drawable(v) ? v * factor : null;  // not 0 where there is no number
// A run stopped within an epoch is evaluated where it stopped: that number is in its summary.
const tests = (r, key, factor) => {
  const points = r.test.map(x => [x.epoch, times(x[key], factor)]), end = last(r.train);
  if (r.summary && end && (!points.length || r.summary.steps > last(r.test).step)) points.push([end.epoch, times(r.summary[key], factor)]);
  return line(r, points, {dots: true});
};

// --- attention ---
// Of all heads: the mean, of extremes the extreme; none where one is not finite.
const overHeads = (m, a) => a.length && a.every(drawable) ? {least: Math.min(...a), largest: Math.max(...a)}[m.extreme] ?? mean(a) : NaN;
const unlikeBatches = () => {
  const all = [...new Set(runs.map(r => r.config.batch))];
  return all.length < 2 ? "" : ` Runs differ in batch (${all.join(", ")}), and the gradients are of the mean loss over a batch: these norms have a factor 1/batch, and are not comparable between those runs.`;
};
const heads = (row, l, field) => (row.attention && row.attention[l] && row.attention[l][field]) || [];
// N of the runs that have block l, or any block; a bound says which N is its own, and to the pointer whose, where the page has several.
const sizes = (l = 0) => [...new Set(runs.filter(r => r.tokens > 0 && r.train.some(x => heads(x, l, "fro").length)).map(r => r.tokens))].sort((a, b) => a - b);
const bounds = (...lines) => l => sizes(l).flatMap(n => lines.map(([scale, text]) => (
  {y: Math.sqrt(n) * scale, label: `${text} = ${number(Math.sqrt(n) * scale)}` + (sizes().length > 1 ? ` (N = ${n})` : ""),
   whose: sizes().length > 1 ? runs.filter(r => r.tokens === n).map(r => r.name).join(", ") : ""})));
const measures = [
  {field: "fro", short: "‖A‖_F", title: "‖A‖_F: size of the attention matrix", bounds: bounds([1, "√N"]),
   text: () => "Frobenius norm per image and head, mean over the batch." + (sizes().length ? " Dashed: √N, which bounds softmax (Theorem 4.1)." : "")},
  {field: "jacobian", short: "‖∂A/∂S‖_F", title: "‖∂A/∂S‖_F: size of its Jacobian", bounds: bounds([2, "2√N"], [0.5, "√N/2"]),
   text: () => "How strongly the matrix answers to its scores." + (sizes().length ? " Dashed: bounds for softmax, 2√N in the paper (Theorem 4.1) and √N/2, the sharp one." : "")},
  {field: "grad_a", short: "‖∂L/∂A‖_F", title: "‖∂L/∂A‖_F: gradient that reaches the matrix", text: () => "Measured in the backward pass, of the mean loss over the batch." + unlikeBatches()},
  {field: "grad_s", short: "‖∂L/∂S‖_F", title: "‖∂L/∂S‖_F: gradient that passes on to the scores", text: () => "The same behind the attention function: what its Jacobian lets through." + unlikeBatches()}];
// What else the kernel measures. Shares and scores are of the visible entries, extremes those of the batch.
const further = [
  {field: "score_rms", short: "score rms", text: "Root of the mean square of the scores S = QKᵀ/√d."},
  {field: "score_mean", short: "score mean", text: "Mean of the scores S = QKᵀ/√d."},
  {field: "score_max", extreme: "largest", short: "largest score", text: "Largest score of the batch."},
  {field: "row_sum", short: "row sum", text: "Mean sum of a row of A; softmax: always 1."},
  {field: "row_sum_std", short: "spread of row sums", text: "Standard deviation of the sums of the rows of A; softmax: 0."},
  {field: "min", extreme: "least", short: "least a", text: "Least weight of the batch."},
  {field: "max", extreme: "largest", short: "largest a", text: "Largest weight of the batch."},
  {field: "negative_share", short: "share a < 0", text: "Share of the weights that are negative."},
  {field: "small_share", short: "share |a| < 0.001", text: "Share of the weights whose size is below 0.001: how sparse A is."},
  {field: "fro_error", short: "error of ‖A‖_F", text: "Standard error of ‖A‖_F where the linear form of attention estimates it; elsewhere it is exact."},
  {field: "entropy", short: "entropy", text: "Mean entropy of the rows of A, in nats; only where rows are non-negative and sum to one."}];
const statistics = [...measures, ...further];
function byBlock(m, l) {
  const rows = r => r.train.filter(x => heads(x, l, m.field).length), count = r => { const x = rows(r)[0]; return x ? heads(x, l, m.field).length : 0; };
  const ofHeads = r => count(r) < 2 ? [] : [...Array(count(r)).keys()].map(h =>
    over(r, rows(r), x => heads(x, l, m.field)[h], {name: `${r.label}, head ${h}`, width: 1, opacity: 0.35, quiet: true}));
  return lines(r => {
    const spread = new Map(rows(r).map(x => [x.epoch, heads(x, l, m.field).filter(drawable)])), several = count(r) > 1;
    return over(r, rows(r), x => overHeads(m, heads(x, l, m.field)), {name: several ? `${r.label}, ${m.extreme || "mean"}` : r.label,
      spread: several ? x => spread.get(x) && [Math.min(...spread.get(x)), Math.max(...spread.get(x))] : undefined});
  }, ofHeads);
}
// How to read the lines of these charts, as things stand.
const thickness = ({extreme}) => !grouped ? `Thick: ${extreme || "mean"} over heads; thin: each head.`
  : `${extreme ? `The ${extreme} over heads, its mean over runs` : "Mean over heads and runs"}, with a band from the least to the largest run of a setting; single runs as thick lines, their heads thin.`;

let other = further[0];  // the measure that the reader chose
function furtherMeasures() {
  const title = "More about the matrix", box = plain(title, "What else the kernel measures in every head.");
  const label = make("label", undefined, box), choice = (make("span", "measure", label), make("select", undefined, label)), say = make("p", undefined, box), draws = [];
  const tell = () => { say.textContent = `${other.text} ${thickness(other)}`; };
  show(tell);
  choice.id = "further";
  for (const m of further) make("option", m.short, choice).value = m.field;
  choice.value = other.field;
  const f = family(title, box), grid = make("div", undefined, box); grid.className = "grid";
  show(f.renew);
  const names = l => ({of: other.short, file: `${other.field} block ${l}`, family: f});
  for (let l = 0; l < layers; ++l) draws.push(chart(grid, `Block ${l}`, () => byBlock(other, l), () => names(l)));
  choice.onchange = () => { other = further.find(m => m.field === choice.value); tell(); f.anew(); draws.forEach(d => d()); };
  shows.push(...draws);
}

// --- weights ---
const norms = [
  {key: "weight", short: "weights", title: "Weight norm", text: "Euclidean norm of all parameters of the block together."},
  {key: "grad", short: "gradient", title: "Gradient norm", text: "Norm of the gradient that reaches them, before clipping. Logarithmic scale."},
  {key: "update", short: "update / weight", title: "Update, as a share of the weight", text: "How far one step moves the block's parameters, divided by their norm; a rule of thumb is 0.001. Logarithmic scale."}];
const groupTitle = g => g === 0 ? "Embedding" : g === Infinity ? "Output" : `Block ${g - 1}`;
// Norm of all parameters of a group together; of updates, that of all changes over that of all weights.
function groupNorm(r, row, g, key) {
  const p = row.parameters, weight = [], values = [];
  r.groups.forEach((of, i) => { if (of !== g) return; weight.push(p.weight[i]); values.push(key === "update" ? p.update[i] * p.weight[i] : p[key][i]); });
  const norm = a => a.length ? Math.hypot(...a.map(v => v === null ? NaN : v)) : NaN;  // a run may lack the block
  return key === "update" ? norm(values.map(v => v || 0)) / norm(weight) : norm(values);
}

// --- one moment, across depth ---
let chosen;  // the epoch to which the reader moved the slider; none: the end, wherever that is
function acrossDepth() {
  const box = plain("Across depth and heads", () => `One moment of training. Dots are heads, one column a ${grouped ? "setting" : "run"}; lines join the means over heads${grouped ? " and runs" : ""}. Move the slider through training.`);
  const label = make("label", undefined, box), slider = make("input", undefined, label), say = make("span", undefined, label);
  Object.assign(slider, {type: "range", min: 0, max: 1000, value: 1000, id: "moment"}); slider.setAttribute("aria-label", "moment of training");
  const grid = make("div", undefined, box); grid.className = "grid";
  const end = () => most(...runs.map(r => (last(r.train) || {epoch: 0}).epoch));
  const moment = r => { const before = chosen === undefined ? r.train : r.train.filter(x => x.epoch <= chosen + 1e-9); return last(before) || r.train[0]; };
  const blocks = [...Array(layers).keys()].map(l => [l, String(l)]);
  const byHead = m => {
    const one = r => ({of: r, runs: [r], label: broken(r) ? `${r.label} (${r.left_out})` : r.label}), several = g => ({of: g.members[0], runs: g.members, label: g.name});
    const columns = grouped ? groups.flatMap(g => g.members.length > 1 ? [several(g)] : (g.members.length ? g.members : g.aside).map(one)) : runs.map(one);
    return columns.flatMap((c, i) => {
      const rows = c.runs.map(moment).filter(row => row), shift = (i - (columns.length - 1) / 2) * Math.min(0.2, 0.7 / columns.length), dots = [], means = [], spread = new Map();
      for (let l = 0; l < layers; ++l) {
        const each = rows.map(row => heads(row, l, m.field)).filter(a => a.length), values = each.flat().filter(drawable);
        if (!values.length) continue;
        each.flat().forEach((v, h) => (dots[h] = dots[h] || []).push([l + shift, v]));
        means.push([l + shift, mean(each.map(mean))]);
        spread.set(l + shift, [Math.min(...values), Math.max(...values)]);
      }
      const count = dots.length / rows.length, name = h => `${c.runs[Math.floor(h / count)].label}, head ${h % count}`;
      return [...dots.map((points, h) => line(c.of, points, {name: name(h), opacity: 0.6, bare: true, quiet: true})),
              line(c.of, means, {width: 1.5, name: `${c.label}, mean`, short: c.runs.length > 1 ? c.label : c.of.name, spread: x => spread.get(x)})];
    });
  };
  const places = groupNames.map((g, i) => [i, g === 0 ? "emb." : g === Infinity ? "out" : String(g - 1)]);
  const byGroup = n => lines(r => { const row = moment(r); return line(r, row && row.parameters ? groupNames.map((g, i) => [i, groupNorm(r, row, g, n.key)]) : [], {dots: true}); });
  const draws = [];
  for (const m of layers ? measures : []) draws.push(chart(grid, `${m.short}, every head`, () => byHead(m), {file: m.field + " across depth", log: true, bounds: m.bounds, x: "block", ticks: blocks}));
  for (const n of groupNames.length ? norms : []) draws.push(chart(grid, n.title, () => byGroup(n), {log: n.key !== "weight", x: "block", ticks: places}));
  const tell = () => { say.textContent = runs.map(r => { const row = moment(r); return `${r.name}: step ${row ? row.step : "–"}`; }).join(" · "); };
  slider.oninput = () => { chosen = +slider.value < 1000 ? slider.value / 1000 * end() : undefined; tell(); draws.forEach(d => d()); };
  show(() => { slider.value = chosen === undefined ? 1000 : 1000 * chosen / end(); tell(); });
  shows.push(...draws);
}

// --- who ---
function who() {
  document.title = data.title;
  byId("title").textContent = data.title;
  const same = k => runs.every(r => r.config[k] === runs[0].config[k]), told = k => same(k) ? String(runs[0].config[k]) : `(several: ${[...new Set(runs.map(r => r.config[k]))].join(", ")})`;
  byId("intro").textContent = `${told("model")}, width ${told("width")}, depth ${told("depth")}, heads ${told("heads")}, on ${told("data")} with patch ${told("patch")}; ` +
    `batch ${told("batch")}, epochs ${told("epochs")}, ${told("optimizer")} at ${told("lr")}, seed ${told("seed")}.` +
    (layers || groupNames.length ? " Blocks and heads are counted from 0, as in blocks.0.attn, metrics.jsonl and TensorBoard." : "");
  byId("legend").replaceChildren(); byId("notes").replaceChildren();
  const said = {"not ended": "has not ended", interrupted: "was interrupted", "not finite": "ended with numbers that are not finite"};
  const entry = (text, draw) => { const e = make("span", undefined, byId("legend")); draw(svg("svg", {viewBox: "0 0 26 8", "aria-hidden": true}, e)); make("span", text, e); };
  const stroke = (of, parent) => svg("line", {x1: 0, x2: 26, y1: 4, y2: 4, stroke: of.color, "stroke-width": 3, "stroke-dasharray": of.dash}, parent);
  const single = r => entry(broken(r) ? `${r.label} (${r.left_out})` : r.label, picture => stroke(r, picture));
  if (!grouped) runs.forEach(single);
  else {
    for (const g of groups) {
      if (g.runs.length < 2) { g.runs.forEach(single); continue; }
      const n = g.members.length, band = picture => svg("rect", {class: "band", x: 0, y: 0, width: 26, height: 8, fill: g.color}, picture);
      entry(`${g.runs[0].brief || g.name} · ${n > 1 ? meanOf(meanOfCurves(g.members.map(r => r.train.map(x => [x.epoch, 0])))) : n ? g.members[0].name : "no run"}`,
            picture => { if (n > 1) band(picture); stroke(n ? g : g.runs[0], picture); });
    }
    entry("band: least to largest run" + (groups.some(g => g.aside.length) ? "; dotted: runs in no mean" : ""), picture => svg("rect", {class: "band", x: 0, y: 0, width: 26, height: 8, fill: "var(--soft)"}, picture));
  }
  const note = text => { make("p", text, byId("notes")).className = "note"; }, leaves = runs.some(r => !broken(r)) ? ", and may leave a chart, whose scale is that of the others" : "";
  for (const r of runs) {
    if (broken(r)) note(`${r.label}: ${said[r.left_out] || r.left_out}. Its curves are dotted${grouped ? ", in no mean over runs" : ""}${leaves}.`);
    else if (grouped && apart(r)) note(`${r.label}: in no mean over runs (${r.left_out}).`);
  }
  for (const r of runs) {
    if (r.note) note(r.note);
    if (!r.rows.length) note(`${r.label}: nothing has been logged yet.`);
  }
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
  cells(box, ["setting", "in the mean", "left out", "test accuracy", "test loss", "‖A‖_F, last, mean over blocks"], () => groups.map(g => {
    const counted = g.runs.filter(r => !r.left_out);
    return [g.name, String(counted.length), String(g.runs.length - counted.length), withSpread(counted.map(r => times(r.summary.test_accuracy, 100)), fixed(2), " %"),
            withSpread(counted.map(r => r.summary.test_loss), fixed(4)), withSpread(counted.map(norm), (v, deviation) => v !== 0 && (v < 0.001 || v >= 1e5) ? v.toExponential(2) : deviation > 0 ? v.toFixed(Math.min(9, Math.max(0, 1 - Math.floor(Math.log10(deviation))))) : v.toPrecision(3))];
  }));
  show(() => { box.hidden = groups.every(g => g.runs.length < 2); });
}

function build() {
  shows = [];
  main.replaceChildren();
  show(who);
  const stand = plain("Where they stand");
  cells(stand, ["run", "attention", "test accuracy", "test loss", "train loss, last 5 logged", "steps", "skipped", "minutes", "status"], () => runs.map(r => {
    const end = r.summary || last(r.test) || {}, t = last(r.train) || {};
    return [r.name, r.config.attention, drawable(end.test_accuracy) ? (100 * end.test_accuracy).toFixed(2) + " %" : "–", end.test_loss,
            mean(r.train.slice(-5).map(x => x.loss)), String(r.summary ? r.summary.steps : t.step === undefined ? "–" : t.step + 1), String(t.skipped ?? 0),
            minutes(r.summary ? r.summary.seconds : r.seconds), r.ending || (r.summary ? "finished" : "not ended")];
  }));
  bySetting(stand);

  const learning = section("Learning", "Training loss and accuracy are of the batch of that step, the curves smoothed and the tables not; test loss and accuracy are over all test images after each epoch.");
  curves(learning, "Training loss", () => lines(r => smoothed(r, x => x.loss)));
  curves(learning, "Training accuracy, %", () => lines(r => smoothed(r, x => times(x.accuracy, 100))));
  curves(learning, "Test loss", () => lines(r => tests(r, "test_loss", 1)), {start: 0});
  curves(learning, "Test accuracy, %", () => lines(r => tests(r, "test_accuracy", 100)), {start: 0});
  curves(learning, "Gradient norm, all parameters", () => lines(r => over(r, r.train, x => x.grad_norm)), {log: true});
  curves(learning, "Learning rate", () => lines(r => over(r, r.train, x => x.lr)));

  for (const m of layers ? measures : []) {
    const {grid, family: f} = compared(m.title, () => `${m.text()} ${thickness(m)} Logarithmic scale.`);
    for (let l = 0; l < layers; ++l) curves(grid, `Block ${l}`, () => byBlock(m, l), {of: m.short, file: `${m.field} block ${l}`, log: true, family: f, bounds: m.bounds && (() => m.bounds(l))});
  }
  if (layers) furtherMeasures();
  for (const n of groupNames.length ? norms : []) {
    const {grid, family: f} = compared(`${n.title}, by block`, n.text);
    for (const g of groupNames)
      curves(grid, groupTitle(g), () => lines(r => over(r, r.train.filter(x => x.parameters), x => groupNorm(r, x, g, n.key))),
             {of: n.short, file: `${n.key} ${groupTitle(g)}`, log: n.key !== "weight", family: f});
  }
  if (layers || groupNames.length) acrossDepth();
  recordings();

  const tables = plain("Tables");
  if (layers)
    cells(folded(tables, "Attention at the last logged step, mean over heads and batch (least and largest: over heads, of the batch)", true),
          ["run", "block", ...statistics.map(m => m.short)],
          () => runs.flatMap(r => ((last(r.train) || {}).attention || []).map((a, l) => [r.label, String(l), ...statistics.map(m => a[m.field] && overHeads(m, a[m.field]))])));
  if (layers)
    cells(folded(tables, "Attention at the last logged step, every head"), ["run", "block", "head", ...statistics.map(m => m.short)],
          () => runs.flatMap(r => ((last(r.train) || {}).attention || []).flatMap((a, l) => a.fro.map((_, h) => [r.label, String(l), String(h), ...statistics.map(m => a[m.field] && a[m.field][h])]))));
  if (groupNames.length)
    cells(folded(tables, "Every parameter at the last logged step"), ["run", "parameter", "weight norm", "gradient norm", "update / weight"],
          () => runs.flatMap(r => { const row = last(r.train); return (r.parameters || []).map((name, i) => [r.label, name, ...norms.map(n => row && row.parameters ? row.parameters[n.key][i] : null)]); }));
  const what = plain("What the runs were", runs.length > 1 ? "config.json of each; bold where they differ." : "config.json.");
  const meanings = {image: "the data set's", channels: "the data set's", classes: "the data set's", init_std: "0.02 √(768/width)", steps: "no limit", threads: "all cores"};
  const setting = (k, v) => v === 0 && meanings[k] ? `0: ${meanings[k]}` : v === undefined ? "–" : String(v);
  const settings = () => [...new Set(runs.flatMap(r => Object.keys(r.config)))].map(k => [k, ...runs.map(r => setting(k, r.config[k]))]);
  const body = cells(what, ["", ...runs.map(r => r.name)], settings);
  show(() => { for (const row of body.rows) if (new Set([...row.cells].slice(1).map(c => c.textContent)).size > 1) row.className = "differs"; });
}
function update() {
  const before = shape;
  read();
  if (shape !== before) build(); else for (const draw of shows) draw();
}

// --- everything, one number a line; names as in TensorBoard ---
function everything() {
  const out = [["run", "attention", "step", "epoch", "name", "value"]], two = n => String(n).padStart(2, "0");
  for (const r of runs)
    for (const row of r.rows) {
      const put = (name, v) => out.push([r.name, r.config.attention, row.step, row.epoch, name, v]);
      for (const [key, v] of Object.entries(row)) {
        if (key === "step" || key === "epoch") continue;
        if (key === "attention")
          v.forEach((layer, l) => { for (const [field, a] of Object.entries(layer)) if (Array.isArray(a)) a.forEach((x, h) => put(`attn/L${two(l)}/H${two(h)}/${field}`, x)); });
        else if (key === "parameters")
          r.parameters.forEach((name, i) => { for (const n of norms) put(`param/${name}/${n.key}`, v[n.key][i]); });
        else if (typeof v !== "object") put(key.startsWith("test_") ? "test/" + key.slice(5) : "train/" + key, v);
      }
    }
  return out;
}
byId("csv").onclick = () => download("norma.csv", everything());
chooseTogether(); read(); build();
