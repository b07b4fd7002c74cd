// Elements and numbers, of every page.
const make = (tag, text, parent) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (parent) parent.append(e); return e; };
const number = v => v === undefined || v === null || !isFinite(v) ? "–" : v !== 0 && (Math.abs(v) < 0.001 || Math.abs(v) >= 1e5) ? v.toExponential(2) : String(+v.toPrecision(4));
// "‖A‖_F" with a real subscript; and where there can be none.
function formula(e) {
  const parts = e.textContent.split("‖_F"), end = parts.pop();
  if (parts.length) e.replaceChildren(...parts.flatMap(p => [p + "‖", make("sub", "F")]), end);
  return e;
}
const unscripted = text => text.replaceAll("‖_F", "‖");
// A text in an element, unless it stands there already: what is selected stays so.
function put(e, text) {
  if (e.told === text) return;
  e.told = e.textContent = text;
  formula(e);
}
// What the symbols of a page mean. tokens: what N is here, as far as that is known.
const symbols = tokens => "A = φ(S) is the attention matrix of a head, N × N: row i says how much token i takes of every token. φ is the attention function, such as softmax; " +
  `S = QKᵀ/√d are the scores, d the width of a head. N is the number of tokens${tokens && `: here ${tokens}`}. L is the training loss. ` +
  "‖·‖_F is the Frobenius norm, the root of the sum of the squares. Theorem 4.1 is that of arXiv 2410.18613.";
const tokensOf = (tokens, withClass) => `${tokens}, ${withClass ? `${tokens - 1} patches and the class token` : "the patches"}`;
// What is jumped to or has the focus comes to lie below what stays at the top of the window.
function keepBelow(e) {
  const pad = () => { document.documentElement.style.scrollPaddingTop = getComputedStyle(e).position === "sticky" ? `${e.offsetHeight + 8}px` : ""; };
  pad(); new ResizeObserver(pad).observe(e);
}
const drawable = v => typeof v === "number" && isFinite(v);
// How the numbers of one column are shown: their points below each other, with at least four digits of the largest and three of the least; where that would
// take too many, each with four digits. Zeros at the end stay.
function column(values) {
  const sizes = values.filter(v => drawable(v) && v !== 0).map(Math.abs), power = v => Math.floor(Math.log10(v));
  const largest = Math.max(...sizes), behind = sizes.length ? Math.max(0, 3 - power(largest), 2 - power(Math.min(...sizes))) : 0;
  const even = !sizes.length || (behind < 6 && largest < 1e5 && Math.max(0, power(largest)) + behind < 8);
  return v => !drawable(v) ? "–" : even ? v.toFixed(behind) : v === 0 ? "0" : Math.abs(v) < 0.001 || Math.abs(v) >= 1e5 ? v.toExponential(2) : v.toPrecision(4);
}
// A cell that is no text is a number of its column, and shown with as many digits as the others.
function fill(body, rows) {
  const width = rows.reduce((m, r) => Math.max(m, r.length), 0), shown = [];
  for (let i = 0; i < width; ++i) shown.push(column(rows.map(r => r[i]).filter(c => typeof c !== "string")));
  rows.forEach((r, k) => {
    const tr = body.rows[k] || body.insertRow();
    r.forEach((c, i) => put(tr.cells[i] || tr.insertCell(), typeof c === "string" ? c : shown[i](c)));
    while (tr.cells.length > r.length) tr.deleteCell(-1);
  });
  while (body.rows.length > rows.length) body.deleteRow(-1);
  return body;
}
