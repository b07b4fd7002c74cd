// What stands under the pointer of a chart: the numbers nearest to it, and the curve, heads too, drawn thick.
const nearestTo = (points, value) => points.reduce((a, p) =>
  !drawable(p[0]) || !drawable(p[1]) || (a && Math.abs(a[0] - value) <= Math.abs(p[0] - value)) ? a : p, undefined);
// How far a curve is from a place on the chart, up or down; beyond its ends, from its end.
function distance(points, x, y, {X, Y}) {
  const next = points.findIndex(p => X(p[0]) >= x), b = next < 0 ? last(points) : points[next], a = next > 0 ? points[next - 1] : b;
  if (a === b) return Math.hypot(X(b[0]) - x, Y(b[1]) - y);
  const share = (x - X(a[0])) / (X(b[0]) - X(a[0]));
  return Math.abs(Y(a[1]) + share * (Y(b[1]) - Y(a[1])) - y);
}
const mostNamed = 10;  // curves under the pointer

let tipped;  // the chart that shows numbers: a touch elsewhere closes it
document.addEventListener("pointerdown", e => { if (tipped && !tipped.box.contains(e.target)) tipped.leave(); });

// over(view) says what is drawn now, nothing while it is drawn: {series, paths: their lines, X, Y, value: of x, width, height, top, bottom, shown: text of x}.
function pointing(figure, box) {
  const me = {box, leave, over};
  let view, at, tip, rule;  // at: where the pointer is in the window
  const thicken = nearest => { for (const [s, path] of view.paths) path.style.strokeWidth = s === nearest ? 4 : ""; };

  function hide() {
    if (!tip) return;
    thicken(); tip.remove(); rule.remove();
    tip = rule = undefined;
  }
  function leave() { at = undefined; hide(); }
  function over(next) {
    hide();
    view = next;
    if (at && view) tell();
  }

  // One line of the tip.
  function entry({s, point, smooth}, where, nearest) {
    const beside = [s.exact && `smoothed ${number(smooth[1])}`, s.spread && s.spread(point[0])].filter(t => t).join(", ");
    const e = make("div"), name = s.quiet ? s.name : s.short || s.name;
    sample(s, svg("svg", {viewBox: "0 0 42 8", "aria-hidden": true}, e));
    make(nearest ? "b" : "span", `${name}: ${number(point[1])}${beside && ` (${beside})`}${point[2] === where[2] ? "" : stepOf(point)}`, e);
    return e;
  }
  const stepOf = p => p[2] === undefined ? "" : `, step ${p[2]}`;

  function tell() {
    if (!view) return;
    if (tipped !== me) { if (tipped) tipped.leave(); tipped = me; }
    const frame = box.getBoundingClientRect(), x = (at.x - frame.left) * view.width / frame.width, y = (at.y - frame.top) * view.height / frame.height;
    const curves = view.series.filter(s => s.points.length && !s.bare).map(s => ({s, away: distance(s.points, x, y, view)})).sort((a, b) => a.away - b.away);
    if (!curves.length) return hide();
    const nearest = curves[0], told = curves.filter(c => c === nearest || !c.s.quiet), named = told.slice(0, mostNamed), value = view.value(x);
    for (const c of named) { c.smooth = nearestTo(c.s.points, value); c.point = c.s.exact ? nearestTo(c.s.exact, value) : c.smooth; }
    const where = nearestTo(named.map(c => c.point), value);

    if (!tip) {
      tip = make("div", undefined, figure); tip.className = "tip";
      rule = svg("line", {class: "axis", y1: view.top, y2: view.bottom}, box);
    }
    tip.replaceChildren(make("div", view.shown(where[0]) + stepOf(where)), ...named.map(c => entry(c, where, c === nearest)));
    if (told.length > named.length) make("div", `and ${told.length - named.length} more: see numbers`, tip);
    thicken(nearest.s);
    rule.setAttribute("x1", view.X(where[0])); rule.setAttribute("x2", view.X(where[0]));
    const place = view.X(where[0]) / view.width * frame.width + 20, room = figure.clientWidth - tip.offsetWidth;
    tip.style.top = frame.bottom - figure.getBoundingClientRect().top + "px";  // below, so that it hides no curve
    tip.style.left = Math.max(4, Math.min(place <= room ? place : place - tip.offsetWidth - 24, room - 4)) + "px";
  }
  box.onpointerdown = box.onpointermove = e => { at = {x: e.clientX, y: e.clientY}; tell(); };
  box.onpointerleave = e => { if (e.pointerType !== "touch") leave(); };  // a touch ends at once; what it showed stays
  return me;
}
