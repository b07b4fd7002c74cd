// What is measured in every head of a layer, and of its parameters.
// Of all heads: the mean, of extremes the extreme; none where one is not finite.
const overHeads = (m, a) => a.length && a.every(drawable) ? {least: Math.min(...a), largest: Math.max(...a)}[m.extreme] ?? mean(a) : NaN;
const unlikeBatches = () => {
  const all = [...new Set(runs.map(r => r.config.batch))];
  return all.length < 2 ? "" : ` Runs differ in batch (${all.join(", ")}), and the gradients are of the mean loss over a batch: these norms have a factor 1/batch, and are not comparable between those runs.`;
};
// One number a head: as logged, or made of two that are.
const derived = {grad_ratio: ({grad_a = [], grad_s = []}) => grad_s.map((s, h) => drawable(s) && drawable(grad_a[h]) ? s / grad_a[h] : null)};
const measured = (layer, field) => (derived[field] ? derived[field](layer) : layer[field]) || [];
const heads = (row, l, field) => row.attention && row.attention[l] ? measured(row.attention[l], field) : [];
// N of the runs that have block l, or any block; a bound says which N is its own, and to the pointer whose, where the page has several.
const sizes = (l = 0) => [...new Set(runs.filter(r => r.tokens > 0 && r.train.some(x => heads(x, l, "fro").length)).map(r => r.tokens))].sort((a, b) => a - b);
const bounds = (...lines) => l => sizes(l).flatMap(n => lines.map(([scale, text]) => (
  {y: Math.sqrt(n) * scale, label: `${text} = ${number(Math.sqrt(n) * scale)}` + (sizes().length > 1 ? ` (N = ${n})` : ""),
   whose: sizes().length > 1 ? runs.filter(r => r.tokens === n).map(r => isolated(r.name)).join(", ") : ""})));
const measures = [
  {field: "fro", short: "‖A‖_F", title: "‖A‖_F: size of the attention matrix", bounds: bounds([1, "√N"]),
   text: () => "Frobenius norm per image and head, mean over the batch." + (sizes().length ? " Dashed, or at the edge where it is far off: √N, which bounds softmax (Theorem 4.1)." : "")},
  {field: "jacobian", short: "‖∂A/∂S‖_F", title: "‖∂A/∂S‖_F: size of its Jacobian", bounds: bounds([2, "2√N"], [0.5, "√N/2"]),
   text: () => "How strongly the matrix answers to its scores." + (sizes().length ? " Dashed, or at the edge where they are far off: bounds for softmax, 2√N in the paper (Theorem 4.1) and √N/2, the sharp one." : "")},
  {field: "grad_a", short: "‖∂L/∂A‖_F", title: "‖∂L/∂A‖_F: gradient that reaches the matrix", text: () => "Measured in the backward pass, of the mean loss over the batch." + unlikeBatches()},
  {field: "grad_s", short: "‖∂L/∂S‖_F", title: "‖∂L/∂S‖_F: gradient that passes on to the scores", text: () => "The same behind the attention function: what its Jacobian makes of it." + unlikeBatches()}];
// What else is measured. Shares and scores are of the visible entries, extremes those of the batch.
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
  {field: "fro_error", short: "error of ‖A‖_F", text: "Standard error of ‖A‖_F where the linear form of attention estimates it; a norm without one is exact."},
  {field: "entropy", short: "entropy", text: "Mean entropy of the rows of A, in nats; only where rows are non-negative and sum to one."},
  {field: "grad_ratio", log: true, short: "‖∂L/∂S‖_F / ‖∂L/∂A‖_F", text: "By what factor the attention function changes the gradient's norm on its way to the scores."}];
const statistics = [...measures, ...further];
// The largest ‖A‖_F of a run, mean over heads, as a multiple of √N, and where it was.
function largestNorm(r) {
  let largest = -1, block;
  for (const row of r.train)
    (row.attention || []).forEach((_, l) => { const v = overHeads(measures[0], heads(row, l, "fro")); if (v > largest) [largest, block] = [v, l]; });
  return largest < 0 ? "–" : `${number(largest)}${r.tokens > 0 ? ` = ${+(largest / Math.sqrt(r.tokens)).toPrecision(2)} √N` : ""}, block ${block}`;
}
// Every head, or of more than four the extremes and whose they are.
function tellHeads(values) {
  if (values.length < 5) return "heads " + values.map((v, h) => `${h}: ${number(v)}`).join(", ");
  const known = values.map((v, h) => [v, h]).filter(([v]) => drawable(v)), told = best => { const [v, h] = known.reduce((a, b) => best(a[0], b[0]) === b[0] ? b : a); return `${number(v)} (${h})`; };
  return known.length ? `heads ${told(Math.min)} to ${told(Math.max)}` : "";
}
function byBlock(m, l) {
  const rows = r => r.train.filter(x => heads(x, l, m.field).length), count = r => { const x = rows(r)[0]; return x ? heads(x, l, m.field).length : 0; };
  const ofHeads = r => count(r) < 2 ? [] : [...Array(count(r)).keys()].map(h =>
    over(r, rows(r), x => heads(x, l, m.field)[h], {name: `${r.label}, head ${h}`, width: 1, opacity: 0.9, quiet: true, dash: dotted(r) ? `2 ${3 * (h % 4 + 1)}` : dashes[h % 4]}));
  return lines(r => {
    const at = new Map(rows(r).map(x => [x.epoch, x])), several = count(r) > 1;
    return over(r, rows(r), x => overHeads(m, heads(x, l, m.field)), {name: several ? `${r.label}, ${m.extreme || "mean"}` : r.label,
      spread: several ? x => at.get(x) && tellHeads(heads(at.get(x), l, m.field)) : undefined});
  }, ofHeads);
}
// How to read the lines of these charts, as things stand. U+2060 keeps a line from ending there, which browsers do behind a dash.
const dashesOfHeads = () => {
  const count = most(...runs.flatMap(r => r.train.slice(0, 1).flatMap(x => (x.attention || []).map(a => a.fro.length))));
  return count > 1 && count < 5 ? ` (${["———", "– – –", "— — —", "— · —"].slice(0, count).map((mark, h) => [...`${h}\u00a0${mark.replaceAll(" ", "\u00a0")}`].join("\u2060")).join(", ")})` : "";
};
const thickness = ({extreme}) => !grouped ? `Thick: ${extreme || "mean"} over heads${runs.some(r => r.dash) ? ", dashed as in the legend" : ""}; thin: each head${dashesOfHeads()}.`
  : `${extreme ? `The ${extreme} over heads, its mean over runs` : "Mean over heads and runs"}, with a band from the least to the largest run of a setting; single runs as thick lines, their heads thin.`;

let other = further[0];  // the measure that the reader chose
function furtherMeasures() {
  const title = "More about the matrix", box = plain(title, "What else is measured in every head.");
  const label = make("label", undefined, box), choice = (make("span", "measure", label), make("select", undefined, label)), say = make("p", undefined, box), draws = [];
  const tell = () => put(say, `${other.text} ${thickness(other)}`);
  show(tell);
  choice.id = "further";
  for (const m of further) make("option", unscripted(m.short), choice).value = m.field;
  choice.value = other.field;
  const f = family(title, box), grid = make("div", undefined, box); grid.className = "grid";
  show(f.renew);
  const names = l => ({of: other.short, file: `${other.field} block ${l}`, log: other.log, family: f});
  for (let l = 0; l < layers; ++l) draws.push(chart(grid, `Block ${l}`, () => byBlock(other, l), () => names(l)));
  choice.onchange = () => { other = further.find(m => m.field === choice.value); tell(); f.anew(); draws.forEach(d => d()); };
  shows.push(...draws);
}

const norms = [
  {key: "weight", short: "weights", title: "Weight norm", text: "Euclidean norm of all parameters of the block together."},
  {key: "grad", short: "gradient", title: "Gradient norm", text: "Norm of the gradient that reaches them, before clipping."},
  {key: "update", short: "update / weight", title: "Update, as a share of the weight", text: "How far one step moves the block's parameters, divided by their norm; a rule of thumb is 0.001."}];
const groupTitle = g => g === 0 ? "Embedding" : g === Infinity ? "Output" : `Block ${g - 1}`;
// Norm of all parameters of a group together; of updates, that of all changes over that of all weights.
function groupNorm(r, row, g, key) {
  const p = row.parameters, weight = [], values = [];
  r.groups.forEach((of, i) => { if (of !== g) return; weight.push(p.weight[i]); values.push(key === "update" ? p.update[i] * p.weight[i] : p[key][i]); });
  const norm = a => a.length ? Math.hypot(...a.map(v => v === null ? NaN : v)) : NaN;  // a run may lack the block
  return key === "update" ? norm(values.map(v => v || 0)) / norm(weight) : norm(values);
}
