// Elements and numbers, of every page.
const make = (tag, text, parent) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (parent) parent.append(e); return e; };
const number = v => v === undefined || v === null || !isFinite(v) ? "–" : v !== 0 && (Math.abs(v) < 0.001 || Math.abs(v) >= 1e5) ? v.toExponential(2) : String(+v.toPrecision(4));
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
  const put = (e, text) => { if (e.textContent !== text) e.textContent = text; };  // what is selected stays so
  rows.forEach((r, k) => {
    const tr = body.rows[k] || body.insertRow();
    r.forEach((c, i) => put(tr.cells[i] || tr.insertCell(), typeof c === "string" ? c : shown[i](c)));
    while (tr.cells.length > r.length) tr.deleteCell(-1);
  });
  while (body.rows.length > rows.length) body.deleteRow(-1);
  return body;
}
