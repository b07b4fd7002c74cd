// What the runs recorded, section by section. Runs may grow while the page is open: read() takes them from `data`, build() makes the
// sections, update() shows what is new in them, and builds again where a section is to appear.
const main = document.getElementById("main"), byId = id => document.getElementById(id);
const mean = a => a.length && a.every(drawable) ? a.reduce((s, v) => s + v, 0) / a.length : NaN;  // of all heads, or of none
const last = a => a.length ? a[a.length - 1] : undefined;
const most = (...n) => n.reduce((a, b) => Math.max(a, b), 0);
const dashes = ["", "7 3", "14 4", "9 3 2 3"], dots = "2 3";  // dots: of runs in no mean
// How the run or setting i is drawn: those whose colours the colour-blind confuse have other dashes and other marks.
const look = i => { const mark = (Math.floor(i / 2) + Math.floor(i / 8)) % 4; return {color: `var(--c${i % 8})`, dash: dashes[mark], mark}; };
const lookOf = (r, its) => ({...its, dash: dotted(r) ? dots : its.dash});
const minutes = s => s > 0 ? s < 60 ? (s / 60).toPrecision(2) : (s / 60).toFixed(1) : "–";

// --- the runs as they are now ---
let runs, groups, grouped, layers, groupNames, shape, smoothing;  // grouped: runs of one setting are shown as one; smoothing: a standard deviation, in epochs
function read() {
  const brief = shortNames([...new Set(data.runs.map(r => r.setting))]);
  runs = data.runs.map((r, i) => {
    const again = data.runs.slice(0, i).filter(o => o.name === r.name).length, name = again ? `${r.name} (${again + 1})` : r.name;
    return {...r, name, brief: brief.get(r.setting), label: `${isolated(name)} · ${brief.get(r.setting) || r.config.attention}`, ...lookOf(r, look(i)),
            train: r.rows.filter(x => x.loss !== undefined), test: [...r.rows.filter(x => x.test_accuracy !== undefined), ...lastTest(r)]};
  });
  groups = groupsOf(runs);
  grouped = together && groups.some(g => g.members.length > 1);
  if (grouped) for (const g of groups) for (const r of g.runs) Object.assign(r, lookOf(r, g.look));
  const ends = runs.flatMap(r => r.train.length ? [r.train[0].epoch, last(r.train).epoch] : []);
  smoothing = Math.max(0, Math.max(...ends) - Math.min(...ends)) / 40 || 1;
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

// A run stopped within an epoch is evaluated where it stopped: that is in its summary, and no row.
function lastTest({summary, rows}) {
  const end = last(rows), tested = rows.filter(x => x.test_accuracy !== undefined);
  if (!summary || !end || (tested.length && summary.steps <= last(tested).step)) return [];
  const {steps, test_loss, test_accuracy} = summary;
  return [{step: steps, epoch: end.step ? +(end.epoch / end.step * steps).toPrecision(12) : end.epoch, test_loss, test_accuracy}];
}

// --- places that show them ---
let shows;  // each shows again what is new
const show = draw => { shows.push(draw); draw(); };
function section(title, text) {  // text: one, or a function that returns it
  const heading = formula(make("h2", title, main));
  heading.id = unscripted(title).toLowerCase().match(/[a-z0-9]+/g).join("-");
  formula(make("a", title.split(/[:,]/)[0], byId("sections"))).href = "#" + heading.id;
  if (text) { const p = make("p", undefined, main); show(() => put(p, typeof text === "string" ? text : text())); }
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
function cells(parent, name, head, rows) { const body = table(parent, head, [], name); show(() => fill(body, rows())); return body; }

// --- learning ---
const line = (r, points, more) => ({name: r.label, short: isolated(r.name), color: r.color, dash: r.dash, mark: r.mark, broken: broken(r), hollow: apart(r), points, ...more});
const over = (r, rows, get, more) => line(r, rows.map(x => [x.epoch, get(x), x.step]), more);
// At every point the mean of those around it, with Gaussian weights of x: how often a run logs is of no account. Those within a quarter of its
// standard deviation count as one at their mean, so that the cost is linear.
function smooth(points) {
  const bins = new Map(), bin = x => Math.floor(4 * x / smoothing);
  for (const [x, y] of points.filter(p => drawable(p[1]))) {
    const [n, xs, ys] = bins.get(bin(x)) || [0, 0, 0];
    bins.set(bin(x), [n + 1, xs + x, ys + y]);
  }
  const at = x => {
    let weights = 0, sum = 0;
    for (let i = bin(x) - 12; i <= bin(x) + 12; ++i) {  // three standard deviations to each side
      if (!bins.has(i)) continue;
      const [n, xs, ys] = bins.get(i), weight = Math.exp(-(((xs / n - x) / smoothing) ** 2) / 2);
      weights += n * weight; sum += ys * weight;
    }
    return sum / weights;
  };
  return points.map(([x, y, step]) => [x, drawable(y) ? at(x) : y, step]);
}
const smoothed = (r, get) => { const {points} = over(r, r.train, get); return line(r, smooth(points), {exact: points}); };
const times = (v, factor) => drawable(v) ? v * factor : null;  // not 0 where there is no number
const tests = (r, key, factor) => over(r, r.test, x => times(x[key], factor), {dots: true});

// --- one moment, across depth ---
let chosen;  // the epoch to which the reader moved the slider; none: the end, wherever that is
function acrossDepth() {
  const box = plain("Across depth and heads", () => `One moment of training. Marks are heads, one column a ${grouped ? "setting" : "run"}; lines join the means over heads${grouped ? " and runs" : ""}. Move the slider through training.`);
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
        if (!each.length) continue;
        each.flat().forEach((v, h) => (dots[h] = dots[h] || []).push([l + shift, v]));
        means.push([l + shift, mean(each.map(mean))]);
        spread.set(l + shift, each.length > 1 ? `heads ${number(Math.min(...values))} to ${number(Math.max(...values))}` : tellHeads(each[0]));
      }
      const count = dots.length / rows.length, name = h => `${c.runs[Math.floor(h / count)].label}, head ${h % count}`;
      return [...dots.map((points, h) => line(c.of, points, {name: name(h), opacity: 0.6, bare: true, quiet: true})),
              line(c.of, means, {width: 1.5, name: `${c.label}, mean`, short: c.runs.length > 1 ? c.label : isolated(c.of.name), spread: x => spread.get(x)})];
    });
  };
  const places = groupNames.map((g, i) => [i, g === 0 ? "emb." : g === Infinity ? "out" : String(g - 1)]);
  const byGroup = n => lines(r => { const row = moment(r); return line(r, row && row.parameters ? groupNames.map((g, i) => [i, groupNorm(r, row, g, n.key)]) : [], {dots: true}); });
  const draws = [];
  for (const m of layers ? measures : []) draws.push(chart(grid, `${m.short}, every head`, () => byHead(m), {file: m.field + " across depth", log: true, bounds: m.bounds, x: "block", ticks: blocks}));
  for (const n of groupNames.length ? norms : []) draws.push(chart(grid, n.title, () => byGroup(n), {log: n.key !== "weight", x: "block", ticks: places}));
  const tell = () => {
    const of = new Map();  // names of runs, by their step
    for (const r of runs) { const row = moment(r), step = row ? row.step : "–"; of.set(step, [...(of.get(step) || []), isolated(r.name)]); }
    put(say, [...of].map(([step, names]) => `${names.length > 3 ? `${names.length} runs` : names.join(", ")}: step ${step}`).join(" · "));
    slider.setAttribute("aria-valuetext", say.textContent);
  };
  slider.oninput = () => { chosen = +slider.value < 1000 ? slider.value / 1000 * end() : undefined; tell(); draws.forEach(d => d()); };
  show(() => { slider.value = chosen === undefined ? 1000 : 1000 * chosen / end(); tell(); });
  shows.push(...draws);
}

// How far a run has come, by its log or, where that is further, its checkpoint; of one that goes on also as a share of what it is to do: its epochs, or --steps.
function stepsOf(r) {
  const end = last(r.train), {epochs, steps} = r.config;
  if (r.summary || !end) return r.summary ? String(r.summary.steps) : "–";
  const made = Math.max(end.step + 1, r.steps), share = Math.max(end.epoch / epochs || 0, steps > 0 ? made / steps : 0);
  return `${made}` + (ended(r) || !(share > 0) ? "" : ` (${Math.floor(100 * Math.min(1, share))} %)`);
}
function build() {
  shows = [];
  main.replaceChildren(); byId("sections").replaceChildren();
  show(who);
  const stand = plain("Where they stand", layers ? "Largest ‖A‖_F: the largest mean over heads that was logged. √N bounds that of softmax (Theorem 4.1)." : undefined);
  cells(stand, "Where they stand", ["run", "attention", "status", "test accuracy", "test loss", "train loss, last 5 logged", ...(layers ? ["largest ‖A‖_F"] : []), "steps", "skipped", "minutes"], () => runs.map(r => {
    const end = r.summary || last(r.test) || {}, t = last(r.train) || {};
    return [r.name, r.config.attention, r.ending || (r.summary ? "finished" : "not ended"), drawable(end.test_accuracy) ? (100 * end.test_accuracy).toFixed(2) + " %" : "–", end.test_loss,
            mean(r.train.slice(-5).map(x => x.loss)), ...(layers ? [largestNorm(r)] : []), stepsOf(r), r.train.length ? String(t.skipped ?? 0) : "–",
            ended(r) ? minutes(r.summary ? r.summary.seconds : r.seconds) : minutes(r.seconds) + (r.seconds > 0 ? " to the last checkpoint" : "")];
  }));
  bySetting(stand);

  const learning = section("Learning", () => "Training loss and accuracy are of the batch of a step: thin lines and the numbers as logged, thick lines smoothed, each point the mean of the steps around it with " +
    `Gaussian weights${runs.some(r => r.train.length > 1) ? ` (standard deviation ${+smoothing.toPrecision(2)} epochs${runs.length > 1 ? ", of every run" : ""})` : ""}. Test loss and accuracy are over all test images after each epoch.`);
  const untested = () => ({start: 0, none: `tested after each epoch; none ${runs.every(ended) ? "made" : "yet"}`});
  curves(learning, "Training loss", () => lines(r => smoothed(r, x => x.loss)));
  curves(learning, "Training accuracy, %", () => lines(r => smoothed(r, x => times(x.accuracy, 100))));
  curves(learning, "Test loss", () => lines(r => tests(r, "test_loss", 1)), untested);
  curves(learning, "Test accuracy, %", () => lines(r => tests(r, "test_accuracy", 100)), untested);
  curves(learning, "Gradient norm, all parameters", () => lines(r => over(r, r.train, x => x.grad_norm)), {log: true});
  curves(learning, "Learning rate", () => lines(r => over(r, r.train, x => x.lr)));

  for (const m of layers ? measures : []) {
    const {grid, family: f} = compared(m.title, () => `${m.text()} ${thickness(m)}`);
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
  const listed = (name, head, rows, open) => cells(folded(tables, name, open), name, head, rows);
  if (layers)
    listed("Attention at the last logged step, mean over heads and batch (least and largest: over heads, of the batch)",
          ["run", "block", ...statistics.map(m => m.short)],
          () => runs.flatMap(r => ((last(r.train) || {}).attention || []).map((a, l) => [r.label, String(l), ...statistics.map(m => overHeads(m, measured(a, m.field)))])), true);
  if (layers)
    listed("Attention at the last logged step, every head", ["run", "block", "head", ...statistics.map(m => m.short)],
          () => runs.flatMap(r => ((last(r.train) || {}).attention || []).flatMap((a, l) => a.fro.map((_, h) => [r.label, String(l), String(h), ...statistics.map(m => measured(a, m.field)[h])]))));
  if (groupNames.length)
    listed("Every parameter at the last logged step", ["run", "parameter", "weight norm", "gradient norm", "update / weight"],
          () => runs.flatMap(r => { const row = last(r.train); return (r.parameters || []).map((name, i) => [r.label, name, ...norms.map(n => row && row.parameters ? row.parameters[n.key][i] : null)]); }));
  const what = plain("What the runs were", runs.length > 1 ? "config.json of each; bold where they differ." : "config.json.");
  const meanings = {image: "the data set's", channels: "the data set's", classes: "the data set's", init_std: "0.02 √(768/width)", steps: "no limit", threads: "all cores"};
  const setting = (k, v) => v === 0 && meanings[k] ? `0: ${meanings[k]}` : v === undefined ? "–" : String(v);
  const settings = () => [...new Set(runs.flatMap(r => Object.keys(r.config)))].map(k => [k, ...runs.map(r => setting(k, r.config[k]))]);
  const body = cells(what, "What the runs were", ["setting", ...runs.map(r => r.name)], settings);
  show(() => { for (const row of body.rows) row.className = new Set([...row.cells].slice(1).map(c => c.textContent)).size > 1 ? "differs" : ""; });
}
function update() {
  const before = shape;
  read();
  if (shape !== before) build(); else for (const draw of shows) draw();
}

// The epochs that the charts show; an empty field is no limit.
const limits = [byId("from"), byId("to")];
for (const e of limits)
  e.onchange = () => {
    if (limits.every(l => l.value !== "")) limits.map(l => +l.value).sort((a, b) => a - b).forEach((v, i) => { limits[i].value = v; });
    span = limits.map((l, i) => l.value === "" ? [-Infinity, Infinity][i] : +l.value);
    update();
  };

// --- everything, one number a line; names as in TensorBoard ---
function everything() {
  const out = [["run", "attention", "step", "epoch", "name", "value"]], two = n => String(n).padStart(2, "0");
  for (const r of runs)
    for (const row of [...r.rows, ...lastTest(r)]) {
      const put = (name, v) => out.push([r.name, r.config.attention, row.step, row.epoch, name, v]);
      for (const [key, v] of Object.entries(row)) {
        if (key === "step" || key === "epoch") continue;
        if (key === "attention")
          v.forEach((layer, l) => { for (const [field, a] of Object.entries(layer)) if (Array.isArray(a)) a.forEach((x, h) => put(`attn/L${two(l)}/H${two(h)}/${field}`, x)); });
        else if (key === "parameters")
          r.parameters.forEach((name, i) => { for (const n of norms) put(`param/${name}/${n.key}`, v[n.key][i]); });
        else if (v === null || typeof v !== "object") put(key.startsWith("test_") ? "test/" + key.slice(5) : "train/" + key, v);
      }
    }
  return out;
}
byId("csv").onclick = () => download("norma.csv", everything());
chooseTogether(); read(); build(); byId("choices").hidden = false; keepBelow(byId("legend"));
