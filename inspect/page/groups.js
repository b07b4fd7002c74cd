// Runs of one setting, which differ in their seed alone, as one: the mean of their curves, with a band from the least of them to the
// largest. And panels of one measure on one scale.
let together = true;  // what the reader chose: settings where several runs are of one, or single runs

// How a run stands that is in no mean. A run that has not ended is in it on a live page, as far as it has come; elsewhere it is as one that was stopped.
const notOver = r => data.live && r.left_out === "not ended", apart = r => !!r.left_out && !notOver(r);
const broken = r => apart(r) && !r.left_out.startsWith("seed ");  // one that repeats a seed is sound
// Whether its curves are dotted: not where there is none that they must be told from.
const dotted = r => broken(r) && data.runs.some(o => !broken(o));
// The groups of runs as they are now: those in the mean, and those drawn beside it.
function groupsOf(runs) {
  const key = (r, i) => r.setting || String(i), keys = [...new Set(runs.map(key))];
  return keys.map((k, i) => {
    const all = runs.filter((r, j) => key(r, j) === k), member = r => r.rows.length && !apart(r);
    return {name: k, look: look(i), runs: all, members: all.filter(member), aside: all.filter(r => !member(r))};
  });
}

// [x, mean, least, largest, count] of curves that rise in x: at x of those that have begun and come so far. A curve without a point at x has the value on the straight line between its neighbours.
function meanOfCurves(curves) {
  const all = curves.map(c => c.filter(p => drawable(p[1]))).filter(c => c.length);
  const at = all.map(() => 0), xs = [...new Set(all.flatMap(c => c.map(p => p[0])))].sort((a, b) => a - b);
  return xs.map(x => {
    const ys = all.flatMap((c, i) => {
      if (x < c[0][0] || x > last(c)[0]) return [];
      while (at[i] + 1 < c.length && c[at[i] + 1][0] <= x) ++at[i];
      const [x0, y0] = c[at[i]], next = c[at[i] + 1];
      return next && x > x0 ? y0 + (next[1] - y0) * (x - x0) / (next[0] - x0) : y0;
    });
    return [x, mean(ys), Math.min(...ys), Math.max(...ys), ys.length];
  });
}
// "mean of 3 runs", or, where some have not come as far as others, "mean of 1 to 3 runs".
function meanOf(points) {
  const counts = points.map(p => p[4]), least = counts.reduce((a, b) => Math.min(a, b), Infinity), largest = most(...counts);
  return `mean of ${least < largest ? `${least} to ${largest}` : largest} run${largest === 1 ? "" : "s"}`;
}
function averaged(group, curves) {
  const points = meanOfCurves(curves.map(c => c.points)), exact = curves[0].exact ? meanOfCurves(curves.map(c => c.exact)) : points;
  const steps = new Map(curves.flatMap(c => c.points.map(p => [p[0], p[2]]))), told = all => all.map(p => [p[0], p[1], steps.get(p[0])]);
  const range = new Map(points.map(p => [p[0], `runs ${number(p[2])} to ${number(p[3])}`]));
  return {...curves[0], name: `${group.name}, ${meanOf(points)}`, short: group.name, ...group.look, points: told(points),
          exact: curves[0].exact && told(exact), band: points.map(p => [p[0], p[2], p[3]]), spread: x => range.get(x)};
}
// What a chart draws. curve: of a run; beside: what else is drawn of a run that stands for itself.
function lines(curve, beside = () => []) {
  const asDots = r => ({...curve(r), name: `${curve(r).name} (${r.left_out})`, dash: dots});
  const single = r => [...beside(r), dotted(r) ? asDots(r) : curve(r)];
  if (!grouped) return runs.flatMap(single);
  return groups.flatMap(g => g.members.length < 2 && !g.aside.length ? g.runs.flatMap(single)
    : [...(g.members.length > 1 ? [averaged(g, g.members.map(curve))] : g.members.map(curve)),
       ...g.aside.map(asDots)]);
}

// Short names of settings, by their names: where one is long, all are without what most of them share, then cut in the middle, unless two would be the same.
function shortNames(names) {
  const parts = names.map(n => n.split(", ")), whole = new Map(names.map(n => [n, n]));
  if (names.every(n => n.length < 60) || parts.some(p => p.length !== parts[0].length)) return whole;
  const common = (part, i) => i > 0 && 2 * parts.filter(p => p[i] === part).length > parts.length;
  const brief = parts.map(p => p.filter((part, i) => !common(part, i)).join(", ")), cut = brief.map(b => b.length < 60 ? b : `${b.slice(0, 29)}…${b.slice(-29)}`);
  return new Map(names.map((n, i) => [n, (new Set(cut).size === names.length ? cut : brief)[i]]));
}

const deviationOf = values => { const m = mean(values); return Math.sqrt(values.reduce((s, v) => s + (v - m) ** 2, 0) / (values.length - 1)); };
// Mean and sample standard deviation, as text(value, deviation): of one value no deviation, of none a dash. That of equal values is 0, but for the mean's rounding.
function withSpread(values, text, unit = "") {
  if (!values.length || !values.every(drawable)) return "–";
  const m = mean(values), computed = deviationOf(values), deviation = computed <= 1e-12 * Math.abs(m) ? 0 : computed;
  return text(m, deviation) + (values.length > 1 ? ` ± ${text(deviation, deviation)}` : "") + unit;
}

// Charts of one measure, on one scale, so that heights can be compared, or each on its own. Where the reader has not chosen it is one scale, unless
// the curves of a chart would then be a flat line.
const scales = new Map();  // what the reader chose, by the title of the section
function family(title, parent) {
  const label = make("label", undefined, parent), box = make("input", undefined, label), say = (make("span", "same scale in all panels", label), make("span", undefined, label));
  box.type = "checkbox"; box.setAttribute("aria-label", `same scale in all panels: ${unscripted(title)}`); say.className = "small"; label.className = "scaling";
  let range, all;
  const f = {panels: [], draws: [], same: scales.get(title)};  // panels: what each measures, {y: [least, largest, whether all are broken], bounds, x, zeros}
  const look = () => all = all || f.panels.map(p => p());
  f.renew = () => { range = all = undefined; };
  f.anew = () => { f.renew(); f.same = scales.get(title); };  // for other numbers than before
  f.across = () => [Math.min(...look().map(p => p.x[0])), Math.max(...look().map(p => p.x[1]))];
  f.zeros = () => look().some(p => p.zeros);
  f.takes = bound => look().every(p => !p.y || !p.bounds.includes(bound) || boundsWithin(p.y, p.bounds).includes(bound));  // all of them, or none
  f.range = () => {
    if (!range) {
      const own = look().map(p => p.y).filter(y => y);
      const sound = own.filter(e => !e[2]), of = sound.length ? sound : own;
      range = [Math.min(...of.map(e => e[0])), Math.max(...of.map(e => e[1]))];
      if (of.length) range = stretched(range, boundsWithin(range, look().flatMap(p => p.bounds || []))).slice(0, 2);
      const flat = of.some(([a, b]) => b - a > 1e-9 * Math.max(Math.abs(a), Math.abs(b)) && b - a < 0.02 * (range[1] - range[0]));
      if (f.same === undefined) f.same = !flat;
      box.checked = f.same;
      say.textContent = f.same ? "" : flat ? "on one scale a panel's curves would be a flat line" : "";
    }
    return f.same ? range : undefined;
  };
  box.onchange = () => { scales.set(title, box.checked); f.same = box.checked; f.draws.forEach(d => d()); };
  return f;
}
