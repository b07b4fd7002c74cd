// One kind of chart, in SVG.
// "‖A‖_F" with a real subscript; only for titles written here, never for names.
function formula(e) { const parts = e.textContent.split("_F"); e.replaceChildren(...parts.flatMap((p, i) => i ? [make("sub", "F"), p] : [p])); return e; }
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

// The curves of a chart, with what stands behind and on them. placed: whether a point is on the scale, floor: where the others lie.
function drawSeries(plot, series, X0, Y, {placed, inside, floor, edges}) {
  const place = (x, y) => x.toFixed(1) + " " + y.toFixed(1), ranged = series.filter(s => s.band && (s.dots || s.band.length === 1));
  const moved = s => {  // ranges at one x stand beside each other
    const shift = ranged.length < 2 || !ranged.includes(s) ? 0 : (ranged.indexOf(s) - (ranged.length - 1) / 2) * Math.min(6, 18 / ranged.length);
    return x => X0(x) + shift;
  };
  for (const s of series) {
    if (!s.band) continue;
    const X = moved(s), edge = (points, i) => points.map(p => place(X(p[0]), Y(p[i]))).join("L");
    if (s.band.length > 1) svg("path", {class: "band", d: `M${edge(s.band, 2)}L${edge([...s.band].reverse(), 1)}Z`, fill: s.color}, plot);
    const ends = ranged.includes(s) ? s.band.filter(p => p[1] < p[2]) : [];
    if (ends.length) svg("path", {class: "range", d: ends.map(([x, a, b]) => `M${place(X(x), Y(a))}V${Y(b).toFixed(1)}${[a, b].map(y => `M${place(X(x) - 4, Y(y))}h8`).join("")}`).join(""), stroke: s.color}, plot);
  }
  const pieces = points => points.reduce((all, p, i) => { if (!placed(p)) return all; if (i && placed(points[i - 1])) last(all).push(p); else all.push([p]); return all; }, []);
  // Of the points in one column of pixels the first, the least, the largest and the last: what is drawn is the same.
  const thinned = (X, a) => {
    if (a.length < 4 * plot.ownerSVGElement.viewBox.baseVal.width) return a;
    const out = [];
    for (let i = 0; i < a.length;) {
      const column = Math.floor(X(a[i][0])); let j = i, least = i, largest = i;
      for (; j < a.length && Math.floor(X(a[j][0])) === column; ++j) { if (a[j][1] < a[least][1]) least = j; if (a[j][1] > a[largest][1]) largest = j; }
      out.push(...[...new Set([i, least, largest, j - 1])].sort((x, y) => x - y).map(k => a[k]));
      i = j;
    }
    return out;
  };
  const joined = (X, parts) => parts.filter(a => a.length > 1).map(a => thinned(X, a)).map(a => "M" + a.map(p => place(X(p[0]), Y(p[1]))).join("L")).join("");
  for (const s of series) if (s.exact) svg("path", {class: "raw", d: joined(moved(s), pieces(s.exact.filter(inside))), stroke: s.color}, plot);
  for (const s of series) {
    const X = moved(s), parts = s.bare ? [] : pieces(s.points), d = joined(X, parts), marked = s.dots || s.bare;
    if (d) s.path = svg("path", {d, fill: "none", stroke: s.color, "stroke-width": s.width || 2, "stroke-opacity": s.opacity || 1, "stroke-dasharray": s.dash || "", "stroke-linejoin": "round"}, plot);
    for (const p of marked ? s.points.filter(placed) : parts.filter(a => a.length === 1).flat())
      svg("circle", {cx: X(p[0]), cy: Y(p[1]), r: s.bare ? 2.5 : 3, "fill-opacity": s.opacity || 1, ...(s.hollow && !s.bare ? {class: "ring", fill: "var(--card)", stroke: s.color} : {fill: s.color})}, plot);
    let before = -Infinity;  // of zeros that lie over each other one is drawn
    const zeros = s.points.filter(p => !placed(p)).filter(p => X(p[0]) - before >= 4 && (before = X(p[0]), true));
    if (zeros.length) svg("path", {class: "zero", d: zeros.map(p => `M${place(X(p[0]) - 3.5, floor - 3)}h7l-3.5 6z`).join(""), fill: s.color, "fill-opacity": s.opacity || 1}, plot);
    if (s.stop) {
      const y = Math.max(edges[0], Math.min(edges[1], Y(s.stop[1]))), cross = svg("path", {class: "stop", d: `M${place(X(s.stop[0]) - 4, y - 4)}l8 8m0 -8l-8 8`, stroke: s.color}, plot);
      svg("title", {}, cross).textContent = "no finite number after this";
    }
  }
}

let clips = 0;  // that have been drawn: names of their own
/* A chart of lines with its numbers as a table below.
   get: returns the series as they are now, each {name, short: its name under the pointer, color, dash, width, opacity, points: [[x, y, step], ...], dots: marks too, bare: marks only,
            quiet: not under the pointer, spread: x -> what stands beside the value under the pointer, band: [[x, low, high], ...] behind the curve,
            broken: of a run whose numbers mean little: the scale is that of the others, hollow: marks are rings,
            exact: points for the table and the pointer where the curve is smoothed, drawn thin behind it}
   options: {log: 0 has a row of its own below the scale, bounds: returns [{y, label, whose}], family: the charts that may share its scale, x: label of the axis,
             ticks: [[x, label], ...] where x counts things, start: the axis begins there at the latest, of: what is shown of it, before the title, file: name of the CSV};
            or a function that returns them
   A curve that stops being finite ends with a cross. Returns a function that shows all anew: at once, or where the chart is out of sight, when it comes into sight. */
function chart(parent, title, get, given = {}) {
  const asked = () => typeof given === "function" ? given() : given;
  let options = asked();
  const figure = make("figure", undefined, parent), caption = make("figcaption", undefined, figure);
  const box = svg("svg", {role: "img"}, figure), xLabel = options.x || "epoch";
  const f = v => options.log ? Math.log10(v) : v, placed = p => !options.log || p[1] > 0;  // the others are in the row of 0
  const inside = p => drawable(p[0]) && drawable(p[1]);
  // `all`: with those that are not finite. `stop`: the last point of a curve that goes on without a finite one.
  const kept = list => list.map(s => {
    const points = s.points.filter(inside), end = last(points);
    return {...s, points, all: s.points, stop: end && !options.ticks && !inside(last(s.points)) ? end : undefined, band: s.band && s.band.filter(inside)};
  });
  const low = a => a.reduce((m, v) => Math.min(m, v), Infinity), high = a => a.reduce((m, v) => Math.max(m, v), -Infinity);
  const boundsNow = () => options.bounds ? options.bounds() : [];
  // y: from the least to the largest of those that are not broken, on the axis, or of all where all are, with true; none where there is no point.
  // x: of all that was logged, finite or not.
  const measure = list => {
    const shown = list.filter(s => s.points.some(placed)), sound = shown.filter(s => !s.broken), of = sound.length ? sound : shown, xs = list.flatMap(s => s.all.map(p => p[0]));
    const ys = of.flatMap(s => [...[...s.points, ...(s.exact || []).filter(inside)].map(p => p[1]), ...(s.band || []).flatMap(p => [p[1], p[2]])]).concat(boundsNow().map(b => b.y)).filter(y => placed([0, y])).map(f);
    return {y: shown.length ? [low(ys), high(ys), !sound.length] : undefined, x: [low(xs), high(xs)], zeros: list.some(s => !s.points.every(placed))};
  };
  const shown = x => options.ticks ? (options.ticks.find(t => t[0] === Math.round(x)) || [0, number(x)])[1] : `${xLabel} ${number(x)}`;
  let series = kept(get()), pointer, pointed, Yof;  // pointer: where it is over the chart

  function draw() {
    box.replaceChildren();
    const whole = options.of ? `${options.of} · ${title}` : title;
    caption.textContent = whole; formula(caption);
    if (options.log) make("span", " log", caption).className = "small";
    box.setAttribute("aria-label", whole); summary.setAttribute("aria-label", `numbers of ${whole}`);
    const own = measure(series), y = (options.family && options.family.range()) || own.y, zeros = options.family ? options.family.zeros() : own.zeros, bounds = boundsNow();
    const W = Math.max(260, figure.clientWidth - 20), H = 220, left = 50, right = 10, top = 12, foot = 36, bottom = foot + (zeros ? 16 : 0), floor = H - bottom + 13;
    box.setAttribute("viewBox", `0 0 ${W} ${H}`); box.style.height = H + "px";
    const none = !series.some(s => s.points.length) ? "nothing recorded" : !y ? "all 0: no place on a logarithmic scale" : "";
    if (none) { svg("text", {x: W / 2, y: H / 2, "text-anchor": "middle"}, box).textContent = none; return; }
    let [x0, x1] = options.family ? options.family.across() : own.x, [y0, y1] = y;
    if (options.ticks) { x0 = options.ticks[0][0] - 0.5; x1 = options.ticks[options.ticks.length - 1][0] + 0.5; }
    if (options.start !== undefined) x0 = Math.min(x0, options.start);
    if (x1 === x0) x1 = x0 + 1;
    if (y1 - y0 < 1e-12) { const margin = options.log || y0 === 0 ? 0.5 : Math.abs(y0) / 2; y0 -= margin; y1 += margin; } else { const margin = (y1 - y0) * 0.06; y1 += margin; y0 -= margin; }
    const X = v => left + (v - x0) / (x1 - x0) * (W - left - right), at = t => Math.max(-1e4, Math.min(1e4, H - bottom - (t - y0) / (y1 - y0) * (H - top - bottom)));
    const Y = v => options.log && v <= 0 ? floor : at(f(v));
    const clip = `clip${++clips}`, plot = svg("g", {"clip-path": `url(#${clip})`});  // for curves: a broken one may leave the chart
    svg("rect", {x: left - 8, y: top - 4, width: W - left - right + 16, height: H - top - foot + 8}, svg("clipPath", {id: clip}, box));

    for (const [t, text] of [...(options.log ? logTicks(y0, y1) : linearTicks(y0, y1, 4)), ...(zeros ? [[0, "0"]] : [])]) {
      svg("line", {class: "axis", x1: left, x2: W - right, y1: Y(t), y2: Y(t)}, box);
      svg("text", {x: left - 6, y: Y(t) + 4, "text-anchor": "end"}, box).textContent = text;
    }
    const every = options.ticks ? Math.ceil(options.ticks.length * 26 / (W - left - right)) : 1;
    const xTicks = options.ticks ? options.ticks.filter((_, i) => i % every === 0) : linearTicks(x0, x1, Math.max(3, Math.floor(W / 110)));
    for (const [t, text] of xTicks) svg("text", {x: X(t), y: H - foot + 15, "text-anchor": "middle"}, box).textContent = text;
    svg("text", {x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle"}, box).textContent = xLabel;
    for (const b of bounds) svg("title", {}, svg("line", {class: "bound", x1: left, x2: W - right, y1: Y(b.y), y2: Y(b.y)}, box)).textContent = b.label + (b.whose ? `: ${b.whose}` : "");
    box.append(plot);
    drawSeries(plot, series, X, Y, {placed, inside, floor, edges: [top, H - foot]});
    // Names of the bounds last, over the curves: above or below their line, at one of its ends or within it, clear of each other and
    // where fewest points lie. One that finds no place says its name to the pointer alone.
    const drawn = series.flatMap(s => s.points.map(p => [X(p[0]), Y(p[1])])), taken = [];
    for (const b of bounds) {
      const width = 7 * b.label.length, places = [];
      for (const y of [Y(b.y) - 4, Y(b.y) + 12]) for (const share of [1, 0, 0.5, 0.75, 0.25]) places.push({x: left + 2 + share * (W - right - left - 4 - width), y});
      const meets = (p, x, y, w, h) => x < p.x + width && x + w > p.x && Math.abs(y - p.y) < h;
      for (const p of places)
        p.crowd = p.y < top || p.y > H - bottom ? 2e6 : 1e6 * taken.some(t => meets(p, t.x, t.y, t.width, 13)) + drawn.filter(([x, y]) => meets(p, x, y + 4, 0, 10)).length;
      const best = places.reduce((a, p) => p.crowd < a.crowd ? p : a);
      if (best.crowd >= 1e6) continue;
      taken.push({...best, width});
      svg("text", {x: best.x, y: best.y}, box).textContent = b.label;
    }
    Yof = Y; hover(X, x => x0 + (x - left) / (W - left - right) * (x1 - x0), W, top, H - foot);
  }

  // The numbers nearest to the pointer.
  function hover(X, x_at, W, top, bottom) {
    const rule = svg("line", {class: "axis", y1: top, y2: bottom, visibility: "hidden"}, box);
    let tip;
    const leave = () => { for (const s of series) if (s.path) s.path.style.strokeWidth = ""; if (tip) tip.remove(); tip = undefined; rule.setAttribute("visibility", "hidden"); };
    figure.querySelectorAll(".tip").forEach(t => t.remove());
    const tell = () => {
      const r = box.getBoundingClientRect(), x = x_at((pointer - r.left) * W / r.width), closer = (a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a;
      const near = series.filter(s => !s.quiet && s.points.length).map(s => [s, s.exact ? s.exact.filter(inside).reduce(closer) : s.points.reduce(closer), s.points.reduce(closer)]);
      if (!near.length) return leave();
      if (!tip) { tip = make("div", undefined, figure); tip.className = "tip"; }
      // The curve nearest to the pointer, heads too, is drawn thick and named first; of many the nearest ten are told.
      const here = (pointed - r.top) * 220 / r.height, away = ([s, p]) => Math.abs(Yof(p[1]) - here);
      const curvesAt = series.filter(s => s.points.length && !s.bare).map(s => [s, s.points.reduce(closer)]).sort((a, b) => away(a) - away(b));
      const nearest = curvesAt[0] && curvesAt[0][0];
      for (const s of series) if (s.path) s.path.style.strokeWidth = s === nearest ? 4 : "";
      near.sort((a, b) => away([a[0], a[2]]) - away([b[0], b[2]]));
      const left = near.splice(10).length;
      const where = near.map(([, p]) => p).reduce(closer), step = p => p[2] === undefined ? "" : `, step ${p[2]}`;
      tip.replaceChildren(make("div", shown(where[0]) + step(where)));
      for (const [s, p, smooth] of near) {
        const beside = [...(s.exact ? [`smoothed ${number(smooth[1])}`] : []), ...(s.spread ? [s.spread(p[0])] : [])].filter(t => t).join("; ");
        make("div", `${s.short || s.name}: ${number(p[1])}` + (beside ? ` (${beside})` : "") + (p[2] === where[2] ? "" : step(p)), tip).style.color = s.color;
      }
      if (nearest) { const p = curvesAt[0][1], e = make("b", `nearest: ${nearest.name} ${number(p[1])}`); e.style.display = "block"; tip.firstChild.after(e); }
      if (left) make("div", `and ${left} more: see numbers`, tip);
      for (const k of ["x1", "x2"]) rule.setAttribute(k, X(where[0]));
      rule.setAttribute("visibility", "visible");
      const place = X(where[0]) / W * r.width + 20, flipped = place + tip.offsetWidth > figure.clientWidth ? place - tip.offsetWidth - 24 : place;
      tip.style.top = r.bottom - figure.getBoundingClientRect().top + "px";  // below, so that it hides no curve
      tip.style.left = Math.max(4, Math.min(flipped, figure.clientWidth - tip.offsetWidth - 4)) + "px";
    };
    box.onpointerdown = box.onpointermove = e => { pointer = e.clientX; pointed = e.clientY; tell(); };
    box.onpointerleave = e => { if (e.pointerType !== "touch") { pointer = undefined; leave(); } };  // a touch ends at once; what it showed stays
    if (pointer !== undefined) tell();
  }

  const details = make("details", undefined, figure);
  const summary = make("summary", "numbers", details);
  function numbers() {
    const key = x => options.ticks ? Math.round(x) : x;  // runs stand beside each other at a tick
    const named = series.filter(s => s.points.length).map(s => ({name: s.name, points: s.exact || s.all})), steps = new Map();
    for (const s of named) for (const [x, , step] of s.points) if (!options.ticks && step !== undefined) steps.set(x, (steps.get(x) || new Set()).add(step));
    const xs = [...new Set(named.flatMap(s => s.points.map(p => key(p[0]))))].sort((a, b) => a - b);
    const columns = named.map(s => new Map(s.points.map(p => [key(p[0]), p[1]])));
    const label = x => [options.ticks ? shown(x) : x, ...(steps.size ? [[...(steps.get(x) || [])].join(", ")] : [])];
    return {head: [xLabel, ...(steps.size ? ["step"] : []), ...named.map(s => s.name)], rows: xs.map(x => [...label(x), ...columns.map(c => c.get(x))])};
  }
  let body, listed;  // the table, and the heads of its columns
  function list() {
    if (!details.open) return;
    const n = numbers(), rows = n.rows;
    if (listed === String(n.head)) { fill(body, rows); return; }
    listed = String(n.head);
    details.replaceChildren(details.firstChild);
    body = table(details, n.head, rows);
    const b = make("button", "as CSV", details); b.type = "button";
    b.onclick = () => { const now = numbers(); download((options.file || title).replace(/[^\w]+/g, "-") + ".csv", [now.head, ...now.rows]); };
  }
  details.ontoggle = list;
  if (options.family) { options.family.panels.push(() => measure(kept(get()))); options.family.draws.push(() => draw()); }
  else draw();
  new ResizeObserver(draw).observe(box);  // which draws a chart of a family, when all of it are known
  let seen = true, stale = false;
  const renew = () => { stale = !seen; if (seen) { options = asked(); series = kept(get()); draw(); list(); } };
  new IntersectionObserver(changes => { seen = changes[changes.length - 1].isIntersecting; if (stale) renew(); }, {rootMargin: "200px"}).observe(figure);
  return renew;
}
