// One kind of chart, in SVG.
const svg = (tag, attributes, parent) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const k in attributes) k === "stroke" || k === "fill" ? e.style[k] = attributes[k] : e.setAttribute(k, attributes[k]);
  if (parent) parent.append(e);
  return e;
};

// Ticks as [value, text], at 1, 2, 5 times a power of ten; on a logarithmic axis at decades, and between them where there are few.
function linearTicks(a, b, n) {
  const rough = (b - a) / n, unit = 10 ** Math.floor(Math.log10(rough) + 1e-9), steps = [1, 2, 5, 10].map(k => k * unit), out = [];
  const count = s => Math.floor(b / s + 1e-9) - Math.ceil(a / s - 1e-9) + 1, widest = steps.findIndex(s => s >= rough * (1 - 1e-9));
  const step = widest > 0 && count(steps[widest]) < 3 ? steps[widest - 1] : steps[widest];
  const digits = Math.max(0, Math.round(-Math.log10(step) + 0.499)), short = step >= 1e-4 && Math.max(Math.abs(a), Math.abs(b)) < 1e5;
  for (let v = Math.ceil(a / step - 1e-9) * step; v <= b + step * 1e-9; v += step) {
    if (Math.abs(v) < step * 1e-9) v = 0;
    out.push([v, v === 0 ? "0" : short ? v.toFixed(digits) : (+v.toPrecision(3)).toExponential()]);
  }
  return out;
}
function logTicks(a, b) {  // a, b: exponents of ten
  const text = v => v >= 0.001 && v < 1e5 ? String(+v.toPrecision(2)) : v.toExponential(0);
  const inside = steps => {
    const out = [];
    for (let k = Math.floor(a); k <= b; ++k) for (const s of steps) { const v = s * 10 ** k; if (Math.log10(v) >= a && Math.log10(v) <= b) out.push([v, text(v)]); }
    return out;
  };
  const decades = inside([1]);
  if (decades.length > 3) return decades.filter((_, i) => i % Math.ceil(decades.length / 6) === 0);
  return [[1, 3], [1, 2, 5]].map(inside).find(t => t.length > 2) || linearTicks(10 ** a, 10 ** b, 4);
}

// Marks of points, of about one size: disc, square, diamond and triangle.
const marks = [r => `m${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`, r => `m${-0.9 * r} ${-0.9 * r}h${1.8 * r}v${1.8 * r}h${-1.8 * r}z`,
               r => `m0 ${-1.3 * r}l${1.3 * r} ${1.3 * r}l${-1.3 * r} ${1.3 * r}l${-1.3 * r} ${-1.3 * r}z`, r => `m0 ${-1.3 * r}l${1.3 * r} ${2.3 * r}h${-2.6 * r}z`];
const mark = (of, x, y, r, more, parent) => svg("path", {class: "dot", d: `M${x} ${y}${marks[of.mark || 0](r)}`, fill: of.color, ...more}, parent);
// A piece of a curve and its mark, for the legend and beside its name under the pointer.
function sample(of, parent) {
  svg("line", {x1: 0, x2: 32, y1: 4, y2: 4, stroke: of.color, "stroke-width": of.quiet ? 1.5 : 3, "stroke-dasharray": of.dash || ""}, parent);
  if (!of.quiet) mark(of, 38, 4, 3, {}, parent);
}

// Of the points in one column of pixels the first, the least, the largest and the last: the curve through them looks the same.
function thinned(points, X, width) {
  if (points.length < 4 * width) return points;
  const out = [], column = i => Math.floor(X(points[i][0]));
  for (let first = 0, next; first < points.length; first = next) {
    let least = first, largest = first;
    for (next = first + 1; next < points.length && column(next) === column(first); ++next) {
      if (points[next][1] < points[least][1]) least = next;
      if (points[next][1] > points[largest][1]) largest = next;
    }
    const chosen = [...new Set([first, least, largest, next - 1])].sort((a, b) => a - b);
    out.push(...chosen.map(i => points[i]));
  }
  return out;
}
// The parts of a curve between points that have no place on the scale.
function pieces(points, placed) {
  const all = [];
  points.forEach((p, i) => {
    if (!placed(p)) return;
    if (i && placed(points[i - 1])) last(all).push(p); else all.push([p]);
  });
  return all;
}

// The curves of a chart, with what stands behind and on them. placed: whether a point is on the scale, floor: where the others lie, width: of the chart.
// Returns the lines of those that have one.
function drawSeries(plot, series, X0, Y, {placed, inside, floor, edges, width}) {
  const place = (x, y) => x.toFixed(1) + " " + y.toFixed(1), ranged = series.filter(s => s.band && (s.dots || s.band.length === 1)), paths = new Map();
  const moved = s => {  // ranges at one x stand beside each other
    const shift = ranged.length < 2 || !ranged.includes(s) ? 0 : (ranged.indexOf(s) - (ranged.length - 1) / 2) * Math.min(6, 18 / ranged.length);
    return x => X0(x) + shift;
  };
  for (const s of series) {
    if (!s.band) continue;
    const X = moved(s), edge = (points, i) => points.map(p => place(X(p[0]), Y(p[i]))).join("L");
    if (s.band.length > 1) svg("path", {class: "band", d: `M${edge(s.band, 2)}L${edge([...s.band].reverse(), 1)}Z`, fill: s.color}, plot);
    const ends = ranged.includes(s) ? s.band.filter(p => p[1] < p[2]) : [], tick = (x, y) => `M${place(X(x) - 4, Y(y))}h8`;
    const range = ends.map(([x, a, b]) => `M${place(X(x), Y(a))}V${Y(b).toFixed(1)}${tick(x, a)}${tick(x, b)}`).join("");
    if (range) svg("path", {class: "range", d: range, stroke: s.color}, plot);
  }
  const joined = (X, parts) => parts.filter(part => part.length > 1)
    .map(part => "M" + thinned(part, X, width).map(p => place(X(p[0]), Y(p[1]))).join("L")).join("");
  for (const s of series) if (s.exact) svg("path", {class: "raw", d: joined(moved(s), pieces(s.exact.filter(inside), placed)), stroke: s.color}, plot);
  for (const s of series) {
    const X = moved(s), parts = s.bare ? [] : pieces(s.points, placed), d = joined(X, parts), opacity = s.opacity || 1;
    const stroke = {stroke: s.color, "stroke-width": s.width || 2, "stroke-opacity": opacity, "stroke-dasharray": s.dash || "", "stroke-linejoin": "round"};
    if (d) paths.set(s, svg("path", {d, fill: "none", ...stroke}, plot));
    const ring = s.hollow && !s.bare ? {class: "dot ring", fill: "var(--card)", stroke: s.color} : {};
    for (const p of s.dots || s.bare ? s.points.filter(placed) : parts.filter(part => part.length === 1).flat())
      mark(s, X(p[0]), Y(p[1]), s.bare ? 2.5 : s.quiet ? 2 : 3, {"fill-opacity": opacity, ...ring}, plot);
    let before = -Infinity;  // of zeros that lie over each other one is drawn
    const zeros = s.points.filter(p => !placed(p)).filter(p => X(p[0]) - before >= 4 && (before = X(p[0]), true));
    const triangles = zeros.map(p => `M${place(X(p[0]) - 3.5, floor - 3)}h7l-3.5 6z`).join("");
    if (triangles) svg("path", {class: "zero", d: triangles, fill: s.color, "fill-opacity": opacity}, plot);
    if (s.stop) {
      const y = Math.max(edges[0], Math.min(edges[1], Y(s.stop[1])));
      const cross = svg("path", {class: "stop", d: `M${place(X(s.stop[0]) - 4, y - 4)}l8 8m0 -8l-8 8`, stroke: s.color}, plot);
      svg("title", {}, cross).textContent = "no finite number after this";
    }
  }
  return paths;
}

// The bounds that a scale takes in, nearest first: with them the curves, from low to high, still have a fifth of it. The others are named at its edge.
function boundsWithin([low, high], bounds) {
  const beyond = b => Math.max(low - b, b - high), taken = [];
  for (const b of [...bounds].sort((x, y) => beyond(x) - beyond(y))) {
    if (5 * (high - low) < Math.max(high, b, ...taken) - Math.min(low, b, ...taken)) break;
    taken.push(b);
  }
  return taken;
}
const stretched = ([low, high, broken], bounds) => [Math.min(low, ...bounds), Math.max(high, ...bounds), broken];
// Labels side by side, in as many rows as they need.
function inRows(labels, width) {
  const rows = [];
  let x = Infinity;
  for (const b of labels) {
    const own = 7 * b.text.length;
    if (x + own > width) { rows.push([]); x = 0; }
    last(rows).push({...b, x});
    x += own + 8;
  }
  return rows;
}
// Names of the bounds that are drawn, over the curves: above or below their line, at one of its ends or within it, clear of each other and where fewest
// points lie. One that finds no place says its name to the pointer alone.
function nameBounds(box, bounds, points, Y, {left, right, top, bottom}) {
  const taken = [];
  for (const b of bounds) {
    const width = 7 * b.label.length, places = [];
    for (const y of [Y(b.y) - 4, Y(b.y) + 12]) for (const share of [1, 0, 0.5, 0.75, 0.25]) places.push({x: left + 2 + share * (right - left - 4 - width), y});
    const meets = (p, x, y, w, h) => x < p.x + width && x + w > p.x && Math.abs(y - p.y) < h;
    for (const p of places) {
      const crowd = 1e6 * taken.some(t => meets(p, t.x, t.y, t.width, 13)) + points.filter(([x, y]) => meets(p, x, y + 4, 0, 10)).length;
      p.crowd = p.y < top || p.y > bottom ? 2e6 : crowd;
    }
    const best = places.reduce((a, p) => p.crowd < a.crowd ? p : a);
    if (best.crowd >= 1e6) continue;
    taken.push({...best, width});
    svg("text", {x: best.x, y: best.y}, box).textContent = b.label;
  }
}

let span = [-Infinity, Infinity];  // the epochs that the reader chose to see
function within(s) {
  const cut = points => points && points.filter(([x]) => x >= span[0] && x <= span[1]);
  return {...s, points: cut(s.points), exact: cut(s.exact), band: cut(s.band)};
}

let clips = 0;  // that have been drawn: names of their own
/* A chart of lines with its numbers as a table below.
   get: returns the series as they are now, each {name, short: its name under the pointer, color, dash, width, opacity, points: [[x, y, step], ...], dots: marks too, bare: marks only,
            quiet: not under the pointer, spread: x -> what stands beside the value under the pointer, band: [[x, low, high], ...] behind the curve,
            broken: of a run whose numbers mean little: the scale is that of the others, hollow: marks are rings,
            exact: points for the table and the pointer where the curve is smoothed, drawn thin behind it}
   options: {log: 0 has a row of its own below the scale, bounds: returns [{y, label, whose}], family: the charts that may share its scale, x: label of the axis,
             ticks: [[x, label], ...] where x counts things, start: the axis begins there at the latest, none: what is said before the first point,
             of: what is shown of it, before the title, file: name of the CSV};
            or a function that returns them
   A curve that stops being finite ends with a cross. Returns a function that shows all anew: at once, or where the chart is out of sight, when it comes into sight. */
function chart(parent, title, get, given = {}) {
  const asked = () => typeof given === "function" ? given() : given;
  let options = asked();
  const figure = make("figure", undefined, parent), caption = make("figcaption", undefined, figure);
  const box = svg("svg", {role: "img"}, figure), pointer = pointing(figure, box), xLabel = options.x || "epoch";
  const f = v => options.log ? Math.log10(v) : v, placed = p => !options.log || p[1] > 0;  // the others are in the row of 0
  const inside = p => drawable(p[0]) && drawable(p[1]);
  // `all`: with those that are not finite. `stop`: the last point, as logged, of a curve that goes on without a finite one.
  const kept = list => list.map(whole => {
    const s = options.ticks ? whole : within(whole), points = s.points.filter(inside), end = last((s.exact || points).filter(inside));
    return {...s, points, all: s.points, stop: end && !options.ticks && !inside(last(s.points)) ? end : undefined, band: s.band && s.band.filter(inside)};
  });
  const low = a => a.reduce((m, v) => Math.min(m, v), Infinity), high = a => a.reduce((m, v) => Math.max(m, v), -Infinity);
  const boundsNow = () => options.bounds ? options.bounds() : [];
  // y: from the least to the largest of those that are not broken, on the axis, or of all where all are, with true; none where there is no point.
  // x: of all that was logged, finite or not.
  const measure = list => {
    const shown = list.filter(s => s.points.some(placed)), sound = shown.filter(s => !s.broken), of = sound.length ? sound : shown;
    const heights = s => [...[...s.points, ...(s.exact || []).filter(inside)].map(p => p[1]), ...(s.band || []).flatMap(p => [p[1], p[2]])];
    const ys = of.flatMap(heights).filter(y => placed([0, y])).map(f), xs = list.flatMap(s => s.all.map(p => p[0])), zeros = list.some(s => !s.points.every(placed));
    const y = shown.length ? [low(ys), high(ys), !sound.length] : undefined;
    return {y, bounds: boundsNow().map(b => f(b.y)), x: [low(xs), high(xs)], zeros};
  };
  const shown = x => options.ticks ? (options.ticks.find(t => t[0] === Math.round(x)) || [0, number(x)])[1] : `${xLabel} ${number(x)}`;
  let series = kept(get());

  // From where to where the axes go.
  function heights(own) {
    const of = options.family && options.family.range();
    if (of || !own.y) return of || own.y;
    const bounds = boundsWithin(own.y, own.bounds);
    return stretched(own.y, options.family ? bounds.filter(options.family.takes) : bounds);
  }
  function widths(own) {
    let [x0, x1] = options.family ? options.family.across() : own.x;
    if (options.ticks) { x0 = options.ticks[0][0] - 0.5; x1 = last(options.ticks)[0] + 0.5; }
    if (options.start !== undefined) x0 = Math.min(x0, Math.max(options.start, span[0]));
    return [x0, x1 === x0 ? x1 + 1 : x1];
  }
  function withMargin([y0, y1]) {
    const margin = y1 - y0 >= 1e-12 * Math.max(1, Math.abs(y0), Math.abs(y1)) ? (y1 - y0) * 0.06 : options.log || y0 === 0 ? 0.5 : Math.abs(y0) / 2;
    return [y0 - margin, y1 + margin];
  }

  let seen = true, stale = false;  // stale: out of sight, and not what there is to show now
  function draw() {
    if (stale) return;
    box.replaceChildren(); pointer.over();
    const whole = options.of ? `${options.of} · ${title}` : title;
    caption.textContent = whole; formula(caption);
    if (options.log) make("span", " log", caption).className = "small";
    box.setAttribute("aria-label", whole); summary.setAttribute("aria-label", `numbers of ${whole}`);
    const own = measure(series), y = heights(own), zeros = options.family ? options.family.zeros() : own.zeros;
    const W = Math.max(260, figure.clientWidth - 20), H = 220, left = 50, right = W - 10;
    box.setAttribute("viewBox", `0 0 ${W} ${H}`); box.style.height = H + "px";
    const recorded = series.some(s => s.all.some(p => p[1] !== undefined));
    const empty = recorded ? "no finite number here" : span.some(isFinite) && !options.ticks ? "nothing in these epochs" : options.none || "nothing recorded";
    const none = !series.some(s => s.points.length) ? empty : !y ? "all 0: no place on a logarithmic scale" : "";
    if (none) { svg("text", {x: W / 2, y: H / 2, "text-anchor": "middle"}, box).textContent = none; return; }
    const [x0, x1] = widths(own), [y0, y1] = withMargin(y);
    const bounds = boundsNow().map(b => ({...b, at: f(b.y)})), drawn = bounds.filter(b => b.at >= y0 && b.at <= y1);
    const above = inRows(bounds.filter(b => b.at > y1).map(b => ({...b, text: `${b.label} ↑`})), right - left);
    const below = inRows(bounds.filter(b => b.at < y0).map(b => ({...b, text: `${b.label} ↓`})), right - left);
    // From top to bottom: names of bounds above, the scale, the row of 0, names of bounds below, the axis with its labels.
    const foot = H - 36, top = 12 + 14 * above.length, base = foot - 13 * below.length, bottom = base - (zeros ? 16 : 0), floor = bottom + 13;
    const X = v => left + (v - x0) / (x1 - x0) * (right - left), at = t => Math.max(-1e4, Math.min(1e4, bottom - (t - y0) / (y1 - y0) * (bottom - top)));
    const Y = v => options.log && v <= 0 ? floor : at(f(v));
    const clip = `clip${++clips}`, plot = svg("g", {"clip-path": `url(#${clip})`});  // for curves: a broken one may leave the chart
    svg("rect", {x: left - 8, y: top - 4, width: right - left + 16, height: base - top + 8}, svg("clipPath", {id: clip}, box));

    for (const [t, text] of [...(options.log ? logTicks(y0, y1) : linearTicks(y0, y1, 4)), ...(zeros ? [[0, "0"]] : [])]) {
      svg("line", {class: "axis", x1: left, x2: right, y1: Y(t), y2: Y(t)}, box);
      svg("text", {x: left - 6, y: Y(t) + 4, "text-anchor": "end"}, box).textContent = text;
    }
    const every = options.ticks ? Math.ceil(options.ticks.length * 26 / (right - left)) : 1;
    const xTicks = options.ticks ? options.ticks.filter((_, i) => i % every === 0) : linearTicks(x0, x1, Math.max(3, Math.floor(W / 110)));
    for (const [t, text] of xTicks) svg("text", {x: X(t), y: foot + 15, "text-anchor": "middle"}, box).textContent = text;
    svg("text", {x: (left + right) / 2, y: H - 4, "text-anchor": "middle"}, box).textContent = xLabel;

    const said = (b, e) => { svg("title", {}, e).textContent = b.label + (b.whose ? `: ${b.whose}` : ""); };
    for (const b of drawn) said(b, svg("line", {class: "bound", x1: left, x2: right, y1: Y(b.y), y2: Y(b.y)}, box));
    box.append(plot);
    const paths = drawSeries(plot, series, X, Y, {placed, inside, floor, edges: [top, base], width: W});
    nameBounds(box, drawn, series.flatMap(s => s.points.map(p => [X(p[0]), Y(p[1])])), Y, {left, right, top, bottom});
    const edge = (rows, y) => rows.forEach((row, i) => row.forEach(b => {
      const e = svg("text", {x: left + 2 + b.x, y: y + 13 * i}, box);
      e.append(b.text);
      if (b.whose) said(b, e);
    }));
    edge(above, 12); edge(below, base + 11);
    pointer.over({series, paths, X, Y, value: x => x0 + (x - left) / (right - left) * (x1 - x0), width: W, height: H, top, bottom: foot, shown});
  }

  const details = make("details", undefined, figure), summary = make("summary", "numbers", details);
  function numbers() {
    const key = x => options.ticks ? Math.round(x) : x;  // runs stand beside each other at a tick
    const named = series.filter(s => s.points.length).map(s => ({name: s.name, points: s.exact || s.all})), steps = new Map();
    for (const s of named) for (const [x, , step] of s.points) if (!options.ticks && step !== undefined) steps.set(x, (steps.get(x) || new Set()).add(step));
    const xs = [...new Set(named.flatMap(s => s.points.map(p => key(p[0]))))].sort((a, b) => a - b);
    const columns = named.map(s => new Map(s.points.map(p => [key(p[0]), p[1]])));
    const label = x => [options.ticks ? shown(x) : x, ...(steps.size ? [[...(steps.get(x) || [])].join(", ")] : [])];
    return {head: [xLabel, ...(steps.size ? ["step"] : []), ...named.map(s => s.name)], rows: xs.map(x => [...label(x), ...columns.map(c => c.get(x))])};
  }
  let body, listed, count;  // the table, the heads of its columns, and how many rows there are
  function list() {
    if (!details.open) return;
    const {head, rows} = numbers(), some = evenly(rows, 1000);
    if (listed !== String(head)) {
      listed = String(head);
      details.replaceChildren(summary);
      body = table(details, head, [], summary.getAttribute("aria-label"));
      count = make("p", undefined, details); count.className = "small";
      const b = make("button", "as CSV", details); b.type = "button";
      b.onclick = () => { const now = numbers(); download((options.file || title).replace(/[^\w]+/g, "-") + ".csv", [now.head, ...now.rows]); };
    }
    fill(body, some);
    count.hidden = some.length === rows.length;
    put(count, `${some.length} of ${rows.length} rows; all as CSV:`);
  }
  details.ontoggle = list;
  if (options.family) { options.family.panels.push(() => measure(kept(get()))); options.family.draws.push(() => draw()); }
  else draw();
  new ResizeObserver(draw).observe(box);  // which draws a chart of a family, when all of it are known
  const renew = () => { stale = !seen; if (seen) { options = asked(); series = kept(get()); draw(); list(); } };
  new IntersectionObserver(changes => { seen = changes[changes.length - 1].isIntersecting; if (stale) renew(); }, {rootMargin: "200px"}).observe(figure);
  return renew;
}
