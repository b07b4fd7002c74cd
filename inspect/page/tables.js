// Tables and CSV.
function table(parent, head, rows, name) {
  const box = make("div", undefined, parent); box.className = "scroll";
  const t = make("table", undefined, box), h = make("tr", undefined, make("thead", undefined, t)), body = make("tbody", undefined, t);
  t.setAttribute("aria-label", unscripted(name));
  for (const c of head) formula(make("th", c, h)).scope = "col";
  return fill(body, rows);
}
// So many rows at most, evenly chosen, with the first and the last.
const evenly = (rows, most) => rows.length <= most ? rows : Array.from({length: most}, (_, i) => rows[Math.round(i * (rows.length - 1) / (most - 1))]);
// Names of runs, whatever their script, leave the order of what stands around them as it is. In a CSV they are bare.
const isolated = name => `\u2068${name}\u2069`, bare = text => text.replace(/[\u2068\u2069]/g, "");
// Text of a CSV file (RFC 4180). A text that a spreadsheet would run as a formula gets an apostrophe.
const csvCell = v => {
  if (v === undefined || v === null) return "";
  let s = bare(String(v));
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
