// Drawing: tables, CSV, and one kind of chart.
// "‖A‖_F" with a real subscript; only for titles written here, never for names.
function formula(e) { const parts = e.textContent.split("_F"); e.replaceChildren(...parts.flatMap((p, i) => i ? [make("sub", "F"), p] : [p])); return e; }
const svg = (tag, attributes, parent) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const k in attributes) k === "stroke" || k === "fill" ? e.style[k] = attributes[k] : e.setAttribute(k, attributes[k]);
  if (parent) parent.append(e);
  return e;
};

function table(parent, head, rows) {
  const box = make("div", undefined, parent); box.className = "scroll";
  const t = make("table", undefined, box), h = make("tr", undefined, make("thead", undefined, t)), body = make("tbody", undefined, t);
  for (const c of head) make("th", c, h).scope = "col";
  return fill(body, rows);
}
// Text of a CSV file (RFC 4180). A text that a spreadsheet would run as a formula gets an apostrophe.
const csvCell = v => {
  if (v === undefined || v === null) return "";
  let s = String(v);
  if (typeof v === "string" && /^[=+\-@\t\r]/.test(s)) s = "'" + s;
  return /[",\r\n]/.test(s) ? '"' + s.replaceAll('"', '""') + '"' : s;
};
const csvText = rows => rows.map(r => r.map(csvCell).join(",")).join("\r\n") + "\r\n";
function download(name, rows) {
  const a = make("a");
  a.href = URL.createObjectURL(new Blob([csvText(rows)], {type: "text/csv"}));
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 1000);
}

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

let clips = 0;  // that have been drawn: names of their own
/* A chart of lines with its numbers as a table below.
   get: returns the series as they are now, each {name, short: its name under the pointer, color, dash, width, opacity, points: [[x, y], ...], dots: marks too, bare: marks only, quiet: not under the pointer,
            spread: x -> [low, high] beside the value under the pointer, spreadOf: of what (heads), band: [[x, low, high], ...] behind the curve,
            broken: of a run whose numbers mean little: the scale is that of the others, hollow: marks are rings,
            exact: points for the table where the curve is smoothed}
   options: {log, bounds: returns [{y, label, whose}], family: the charts that may share its scale, x: label of the axis, ticks: [[x, label], ...] where x counts things,
             start: the axis begins there at the latest, of: what is shown of it, before the title, file: name of the CSV};
            or a function that returns them
   Returns a function that shows them anew: at once, or where the chart is out of sight, when it comes into sight. */
function chart(parent, title, get, given = {}) {
  const asked = () => typeof given === "function" ? given() : given;
  let options = asked();
  const figure = make("figure", undefined, parent), caption = make("figcaption", undefined, figure);
  const box = svg("svg", {role: "img"}, figure), xLabel = options.x || "epoch";
  const f = options.log ? Math.log10 : v => v;
  const inside = p => p.every(v => drawable(v)) && (!options.log || p[1] > 0);  // of a band p[1] is the least
  const kept = list => list.map(s => ({...s, points: s.points.filter(inside), band: s.band && s.band.filter(inside)}));
  const low = a => a.reduce((m, v) => Math.min(m, v)), high = a => a.reduce((m, v) => Math.max(m, v));
  const boundsNow = () => options.bounds ? options.bounds() : [];
  // From the least to the largest of those that are not broken, on the axis, or of all where all are, with true; nothing where there is no point.
  const extent = list => {
    const shown = list.filter(s => s.points.length), sound = shown.filter(s => !s.broken), of = sound.length ? sound : shown;
    if (!shown.length) return;
    const ys = of.flatMap(s => [...s.points.map(p => p[1]), ...(s.band || []).flatMap(p => [p[1], p[2]])]).concat(boundsNow().map(b => b.y)).map(f);
    return [low(ys), high(ys), !sound.length];
  };
  const shown = x => options.ticks ? (options.ticks.find(t => t[0] === Math.round(x)) || [0, number(x)])[1] : `${xLabel} ${number(x)}`;
  let series = kept(get()), pointer;  // pointer: where it is over the chart

  function draw() {
    box.replaceChildren();
    const whole = options.of ? `${options.of} · ${title}` : title;
    caption.textContent = whole; formula(caption);
    box.setAttribute("aria-label", whole);
    const W = Math.max(260, figure.clientWidth - 20), H = 220, left = 50, right = 10, top = 12, bottom = 36;
    box.setAttribute("viewBox", `0 0 ${W} ${H}`); box.style.height = H + "px";
    const all = series.flatMap(s => s.points), bounds = boundsNow();
    if (!all.length) { svg("text", {x: W / 2, y: H / 2, "text-anchor": "middle"}, box).textContent = options.log && get().some(s => s.points.some(p => p[1] === 0)) ? "all 0: no place on a logarithmic scale" : "nothing recorded"; return; }
    const xs = all.map(p => p[0]);
    let x0 = low(xs), x1 = high(xs), [y0, y1] = (options.family && options.family.range()) || extent(series);
    if (options.ticks) { x0 = options.ticks[0][0] - 0.5; x1 = options.ticks[options.ticks.length - 1][0] + 0.5; }
    if (options.start !== undefined) x0 = Math.min(x0, options.start);
    if (x1 === x0) x1 = x0 + 1;
    if (y1 - y0 < 1e-12) { const margin = options.log || y0 === 0 ? 0.5 : Math.abs(y0) / 2; y0 -= margin; y1 += margin; } else { const margin = (y1 - y0) * 0.06; y1 += margin; y0 -= margin; }
    const X = v => left + (v - x0) / (x1 - x0) * (W - left - right), at = t => Math.max(-1e4, Math.min(1e4, H - bottom - (t - y0) / (y1 - y0) * (H - top - bottom))), Y = v => at(f(v));
    const clip = `clip${++clips}`, plot = svg("g", {"clip-path": `url(#${clip})`});  // for curves: a broken one may leave the chart
    svg("rect", {x: left - 4, y: top - 4, width: W - left - right + 8, height: H - top - bottom + 8}, svg("clipPath", {id: clip}, box));

    for (const [t, text] of options.log ? logTicks(y0, y1) : linearTicks(y0, y1, 4)) {
      svg("line", {class: "axis", x1: left, x2: W - right, y1: Y(t), y2: Y(t)}, box);
      svg("text", {x: left - 6, y: Y(t) + 4, "text-anchor": "end"}, box).textContent = text;
    }
    const every = options.ticks ? Math.ceil(options.ticks.length * 26 / (W - left - right)) : 1;
    const xTicks = options.ticks ? options.ticks.filter((_, i) => i % every === 0) : linearTicks(x0, x1, Math.max(3, Math.floor(W / 110)));
    for (const [t, text] of xTicks) svg("text", {x: X(t), y: H - bottom + 15, "text-anchor": "middle"}, box).textContent = text;
    svg("text", {x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle"}, box).textContent = xLabel;
    for (const b of bounds) svg("title", {}, svg("line", {class: "bound", x1: left, x2: W - right, y1: Y(b.y), y2: Y(b.y)}, box)).textContent = b.label + (b.whose ? `: ${b.whose}` : "");
    box.append(plot);
    for (const s of series) {
      if (!s.band || s.band.length < 2) continue;
      const edge = (points, i) => points.map(p => X(p[0]).toFixed(1) + " " + Y(p[i]).toFixed(1)).join("L");
      svg("path", {class: "band", d: `M${edge(s.band, 2)}L${edge([...s.band].reverse(), 1)}Z`, fill: s.color}, plot);
    }
    for (const s of series) {
      if (!s.bare && s.points.length > 1) {
        const d = s.points.map((p, i) => (i ? "L" : "M") + X(p[0]).toFixed(1) + " " + Y(p[1]).toFixed(1)).join("");
        svg("path", {d, fill: "none", stroke: s.color, "stroke-width": s.width || 2, "stroke-opacity": s.opacity || 1, "stroke-dasharray": s.dash || "", "stroke-linejoin": "round"}, plot);
      }
      if (s.points.length === 1 || s.dots || s.bare)
        for (const p of s.points)
          svg("circle", {cx: X(p[0]), cy: Y(p[1]), r: s.bare ? 2.5 : 3, "fill-opacity": s.opacity || 1, ...(s.hollow && !s.bare ? {class: "ring", fill: "var(--card)", stroke: s.color} : {fill: s.color})}, plot);
    }
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
    hover(X, x => x0 + (x - left) / (W - left - right) * (x1 - x0), W, top, H - bottom);
  }

  // The numbers nearest to the pointer.
  function hover(X, x_at, W, top, bottom) {
    const rule = svg("line", {class: "axis", y1: top, y2: bottom, visibility: "hidden"}, box);
    let tip;
    const leave = () => { if (tip) tip.remove(); tip = undefined; rule.setAttribute("visibility", "hidden"); };
    figure.querySelectorAll(".tip").forEach(t => t.remove());
    const tell = () => {
      const r = box.getBoundingClientRect(), x = x_at((pointer - r.left) * W / r.width);
      if (!tip) { tip = make("div", undefined, figure); tip.className = "tip"; }
      tip.replaceChildren();
      let where;
      for (const s of series) {
        if (s.quiet || !s.points.length) continue;
        const p = s.points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a), range = s.spread && s.spread(p[0]);
        where = p[0];
        make("div", `${s.short || s.name}: ${number(p[1])}` + (range ? ` (${s.spreadOf || "heads"} ${number(range[0])} to ${number(range[1])})` : ""), tip).style.color = s.color;
      }
      if (where === undefined) return leave();
      tip.prepend(make("div", shown(where)));
      for (const k of ["x1", "x2"]) rule.setAttribute(k, X(where));
      rule.setAttribute("visibility", "visible");
      const place = X(where) / W * r.width + 20, flipped = place + tip.offsetWidth > figure.clientWidth ? place - tip.offsetWidth - 24 : place;
      tip.style.top = r.bottom - figure.getBoundingClientRect().top + "px";  // below, so that it hides no curve
      tip.style.left = Math.max(4, Math.min(flipped, figure.clientWidth - tip.offsetWidth - 4)) + "px";
    };
    box.onpointermove = e => { pointer = e.clientX; tell(); };
    box.onpointerleave = () => { pointer = undefined; leave(); };
    if (pointer !== undefined) tell();
  }

  const details = make("details", undefined, figure);
  make("summary", "numbers", details);
  function numbers() {
    const key = x => options.ticks ? Math.round(x) : x;  // runs stand beside each other at a tick
    const named = series.map(s => ({name: s.name, points: s.exact || s.points})).filter(s => s.points.length);
    const xs = [...new Set(named.flatMap(s => s.points.map(p => key(p[0]))))].sort((a, b) => a - b);
    const columns = named.map(s => new Map(s.points.map(p => [key(p[0]), p[1]])));
    const label = x => options.ticks ? shown(x) : x;
    return {head: [xLabel, ...named.map(s => s.name)], rows: xs.map(x => [label(x), ...columns.map(c => c.get(x))])};
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
  if (options.family) { options.family.extents.push(() => extent(kept(get()))); options.family.draws.push(() => draw()); }
  else draw();
  new ResizeObserver(draw).observe(box);  // which draws a chart of a family, when all of it are known
  let seen = true, stale = false;
  const renew = () => { stale = !seen; if (seen) { options = asked(); series = kept(get()); draw(); list(); } };
  new IntersectionObserver(changes => { seen = changes[changes.length - 1].isIntersecting; if (stale) renew(); }, {rootMargin: "200px"}).observe(figure);
  return renew;
}
