// Elements and numbers, of every page.
const make = (tag, text, parent) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (parent) parent.append(e); return e; };
const number = v => v === undefined || v === null || !isFinite(v) ? "–" : v !== 0 && (Math.abs(v) < 0.001 || Math.abs(v) >= 1e5) ? v.toExponential(2) : String(+v.toPrecision(4));
const drawable = v => typeof v === "number" && isFinite(v);
