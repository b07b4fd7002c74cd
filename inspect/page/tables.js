// Tables and CSV.
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
