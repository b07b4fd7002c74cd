// Attention matrices and images on canvases, for every page that shows them.
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));

// Colour of x in [-1, 1]: that of the paper at 0, orange above, blue below. The root lets small numbers be seen. What is not finite: purple.
const night = matchMedia("(prefers-color-scheme: dark)");
const mix = (from, to, t) => from.map((v, i) => v + (to[i] - v) * t);
const zero = () => night.matches ? [30, 33, 38] : [255, 255, 255];
const pole = x => night.matches ? (x < 0 ? [86, 180, 233] : [240, 138, 60]) : (x < 0 ? [0, 114, 178] : [213, 94, 0]);
const blend = (from, x, t) => isFinite(x) ? mix(from, pole(x), t * Math.min(1, Math.sqrt(Math.abs(x)))) : purple;
const purple = [160, 60, 200], notFinite = a => a.reduce((n, v) => n + !isFinite(v), 0);
const largestOf = a => a.reduce((m, v) => isFinite(v) && Math.abs(v) > m ? Math.abs(v) : m, 0) || 1;  // of what is finite

function paint(canvas, w, h, at) {
  canvas.width = w; canvas.height = h;
  const context = canvas.getContext("2d"), out = context.createImageData(w, h);
  for (let i = 0; i < w * h; ++i) { const c = at(i); out.data[4 * i] = c[0]; out.data[4 * i + 1] = c[1]; out.data[4 * i + 2] = c[2]; out.data[4 * i + 3] = 255; }
  context.putImageData(out, 0, 0);
}
// The colours of numbers up to 1, in a strip; from -1 where there are negative ones.
const paintScale = (canvas, signed) => paint(canvas, 256, 1, i => { const x = signed ? (i - 127.5) / 127.5 : i / 255; return blend(zero(), x, 1); });
// A strip of the colours, its ends and its middle named; show(signed, bad, low, middle, high), bad: whether purple is to be explained.
function colourBar(parent) {
  const bar = make("div", undefined, parent), low = make("span", undefined, bar), strip = make("div", undefined, bar), high = make("span", undefined, bar);
  const canvas = make("canvas", undefined, strip), middle = make("span", undefined, strip), other = make("span", undefined, bar), swatch = make("canvas", undefined, other);
  bar.className = "scale"; strip.className = "strip"; other.className = "other"; make("span", "not finite", other);
  return {show(signed, bad, ...names) {
    [low, middle, high].forEach((e, i) => { e.textContent = names[i]; });
    paintScale(canvas, signed); paint(swatch, 1, 1, () => purple); other.hidden = !bad;
  }};
}
// n x n numbers, each less the mean of its row: that shows structure in rows that are nearly even.
function lessMeans(a, n) {
  const out = new Float32Array(a.length);
  for (let i = 0; i < n; ++i) { const row = a.subarray(i * n, (i + 1) * n), m = row.reduce((s, v) => s + v, 0) / n; row.forEach((v, j) => { out[i * n + j] = v - m; }); }
  return out;
}
// n x n numbers a; full colour is `largest`.
const paintMatrix = (canvas, n, a, largest) => paint(canvas, n, n, i => blend(zero(), a[i] / largest, 1));

// An image cut into patches, which are tokens; where `first` is 1, token 0 is the class token. x and y are shares of the side.
function picture({pixels, side, channels, patch, class_token}) {
  const grid = side / patch, first = class_token ? 1 : 0, cell = v => Math.min(grid - 1, Math.max(0, Math.floor(v * grid)));
  const row = t => Math.floor((t - first) / grid), column = t => (t - first) % grid;
  return {side, grid, first, tokens: first + grid * grid,
    rgb: i => { const p = c => pixels[Math.min(c, channels - 1) * side * side + i]; return [p(0), p(1), p(2)]; },
    token: i => first + Math.floor(Math.floor(i / side) / patch) * grid + Math.floor(i % side / patch),
    at: (x, y) => first + cell(y) * grid + cell(x),
    middle: t => [(column(t) + 0.5) / grid, (row(t) + 0.5) / grid],
    part: t => t < first ? [] : [column(t) / grid, row(t) / grid, 1 / grid, 1 / grid],
    name: t => t < first ? "the class token" : `the patch in row ${row(t) + 1}, column ${column(t) + 1}`};
}
const paintPicture = (canvas, p) => paint(canvas, p.side, p.side, p.rgb);
// The image, paler and in grey, under the colours of a row of A: where its token looks. A colour of its own would look like attention.
const grey = ([r, g, b]) => Array(3).fill(0.299 * r + 0.587 * g + 0.114 * b);
const paintOver = (canvas, p, row, largest) => paint(canvas, p.side, p.side, i => blend(mix(zero(), grey(p.rgb(i)), 0.55), row[p.token(i)] / largest, 0.85));

// A canvas with a frame that marks a part of it; mark() marks none.
function easel(parent, label) {
  const box = make("div", undefined, parent), canvas = make("canvas", undefined, box), frame = make("div", undefined, box);
  box.className = "easel"; frame.className = "mark";
  canvas.setAttribute("role", "img"); canvas.setAttribute("aria-label", label);
  const percent = v => 100 * v + "%";
  return {canvas, mark(x, y, w, h) {
    frame.hidden = x === undefined;
    if (!frame.hidden) Object.assign(frame.style, {left: percent(x), top: percent(y), width: percent(w), height: percent(h)});
  }};
}
// Where a pointer is on a canvas, as shares of its sides.
function pointed(e) {
  const r = e.target.getBoundingClientRect(), share = v => Math.min(1 - 1e-9, Math.max(0, v));
  return [share((e.clientX - r.left) / r.width), share((e.clientY - r.top) / r.height)];
}
function pressable(parent, text, pressed, act) {
  const b = make("button", text, parent);
  b.type = "button"; b.setAttribute("aria-pressed", pressed); b.addEventListener("click", act);
  return b;
}
