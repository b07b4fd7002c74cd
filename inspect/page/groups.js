// Runs of one setting, which differ in their seed alone, as one: the mean of their curves, with a band from the least of them to the
// largest. And panels of one measure on one scale.
let together = true;  // what the reader chose: settings where several runs are of one, or single runs

// The groups of runs as they are now. A run that has not ended is in the mean as far as all of its group have come; one that diverged, was
// stopped, or repeats a seed is drawn beside it.
function groupsOf(runs) {
  const key = (r, i) => r.setting || String(i), keys = [...new Set(runs.map(key))];
  return keys.map((k, i) => {
    const all = runs.filter((r, j) => key(r, j) === k), member = r => r.rows.length && (!r.left_out || r.left_out === "not ended");
    return {name: k, color: `var(--c${i % 8})`, dash: dashes[Math.floor(i / 8) % 4], runs: all, members: all.filter(member), aside: all.filter(r => !member(r))};
  });
}

// [x, mean, least, largest] of curves that rise in x, between where the last begins and the first ends. A curve without a point at x has the value on the straight line between its neighbours.
function meanOfCurves(curves) {
  const all = curves.map(c => c.filter(p => drawable(p[1]))).filter(c => c.length);
  if (!all.length) return [];
  const from = Math.max(...all.map(c => c[0][0])), to = Math.min(...all.map(c => last(c)[0])), at = all.map(() => 0);
  const xs = [...new Set(all.flatMap(c => c.map(p => p[0])))].filter(x => x >= from && x <= to).sort((a, b) => a - b);
  return xs.map(x => {
    const ys = all.map((c, i) => {
      while (at[i] + 1 < c.length && c[at[i] + 1][0] <= x) ++at[i];
      const [x0, y0] = c[at[i]], next = c[at[i] + 1];
      return next && x > x0 ? y0 + (next[1] - y0) * (x - x0) / (next[0] - x0) : y0;
    });
    return [x, mean(ys), Math.min(...ys), Math.max(...ys)];
  });
}
function averaged(group, curves) {
  const points = meanOfCurves(curves.map(c => c.points)), range = new Map(points.map(p => [p[0], [p[2], p[3]]])), count = curves.filter(c => c.points.some(p => drawable(p[1]))).length;
  return {...curves[0], name: `${group.name}, mean of ${count} run${count === 1 ? "" : "s"}`, short: group.name, color: group.color, dash: group.dash, points: points.map(p => [p[0], p[1]]),
          exact: meanOfCurves(curves.map(c => c.exact || c.points)).map(p => [p[0], p[1]]), band: points.map(p => [p[0], p[2], p[3]]), spread: x => range.get(x), spreadOf: "runs"};
}
// What a chart draws. curve: of a run; beside: what else is drawn of a run that stands for itself.
function lines(curve, beside = () => []) {
  const single = r => [...beside(r), curve(r)];
  if (!grouped) return runs.flatMap(single);
  return groups.flatMap(g => g.members.length < 2 && !g.aside.length ? g.runs.flatMap(single)
    : [...(g.members.length > 1 ? [averaged(g, g.members.map(curve))] : g.members.map(curve)),
       ...g.aside.map(r => ({...curve(r), name: `${r.label} (${r.left_out})`, width: 1, dash: "2 3"}))]);
}

// Mean and sample standard deviation, as text: of one value no deviation, of none a dash.
function withSpread(values, text, unit = "") {
  if (!values.length || !values.every(drawable)) return "–";
  const m = mean(values), deviation = Math.sqrt(values.reduce((s, v) => s + (v - m) ** 2, 0) / (values.length - 1));
  return text(m) + (values.length > 1 ? ` ± ${text(deviation)}` : "") + unit;
}

// Charts of one measure, on one scale, so that heights can be compared, or each on its own. Where the reader has not chosen it is one scale, unless
// the curves of a chart would then be a flat line.
const scales = new Map();  // what the reader chose, by the title of the section
function family(title, parent) {
  const label = make("label", undefined, parent), box = make("input", undefined, label), say = (make("span", "same scale in all panels", label), make("span", undefined, label));
  box.type = "checkbox"; say.className = "small"; label.className = "scaling";
  let range;
  const f = {extents: [], draws: [], same: scales.get(title)};
  f.renew = () => { range = undefined; };
  f.anew = () => { range = undefined; f.same = scales.get(title); };  // for other numbers than before
  f.range = () => {
    if (!range) {
      const own = f.extents.map(e => e()).filter(e => e);
      range = [Math.min(...own.map(e => e[0])), Math.max(...own.map(e => e[1]))];
      const flat = own.some(([a, b]) => b - a > 1e-9 * Math.max(Math.abs(a), Math.abs(b)) && b - a < 0.02 * (range[1] - range[0]));
      if (f.same === undefined) f.same = !flat;
      box.checked = f.same;
      say.textContent = f.same ? "" : flat ? "on one scale a panel's curves would be a flat line" : "";
    }
    return f.same ? range : undefined;
  };
  box.onchange = () => { scales.set(title, box.checked); f.same = box.checked; f.draws.forEach(d => d()); };
  return f;
}
