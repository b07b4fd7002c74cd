// What the flight recorder kept: the attention matrices of a few images through training, one panel a run.
function recordings() {
  if (!runs.some(r => r.recording.records.length || r.recording.notes.length)) return;
  const text = "A of a few test images, as the model was after so many steps (norma train --record). Row i says where token i looks: a click on a row, or on a patch of the image, " +
    "lays that token's attention over the image. Colours grow with the root of |a|. Numbers under the pointer are rounded, by 1/30000 of the matrix's largest at most; those of the table are exact.";
  const box = plain("Attention matrices while training", runs.some(r => r.recording.records.length) ? text : undefined);
  for (const r of runs) for (const n of r.recording.notes) make("p", `${r.label}: ${n}`, box).className = "note";
  const recorded = runs.filter(r => r.recording.records.length).map(r => {
    const {records, labels, ...of} = r.recording;
    return {run: r, records, labels, image: i => picture({...of, pixels: pixels(r.recording, i)})};
  });
  if (!recorded.length) return;
  const unique = a => [...new Set(a)], places = unique(recorded.flatMap(r => r.records.flatMap(x => Object.keys(x.layers))));
  const placeName = p => { const block = /^blocks\.(\d+)\.attn$/.exec(p); return block ? `Block ${block[1]}` : p; };
  places.sort((a, b) => a.localeCompare(b, "en", {numeric: true}));
  const steps = unique(recorded.flatMap(r => r.records.map(x => x.step))).sort((a, b) => a - b);
  const headCount = most(...recorded.flatMap(r => r.records.flatMap(x => Object.values(x.layers).map(l => l.heads))));
  let image = 0, place = places[0], head = 0, moment = steps.length - 1, looking, timer;  // looking: shares of the image's sides; undefined: the class token

  // A of one layer in one record: 16 bits hold the root of |a| / largest; decoded where it is looked at.
  function pixels(recording, i) { const all = recording.decoded = recording.decoded || bytes(recording.pixels), size = all.length / recording.count; return all.subarray(i * size, (i + 1) * size); }
  const codes = new WeakMap();
  function matrix(layer, n) {
    if (!codes.has(layer)) codes.set(layer, new Int16Array(bytes(layer.a).buffer));
    const at = image * layer.heads + head, largest = layer.largest[at];
    return Float32Array.from(codes.get(layer).subarray(at * n * n, (at + 1) * n * n), q => q === -32768 ? NaN : Math.sign(q) * (q / 32767) ** 2 * largest);
  }
  // The record a run is shown with: its last one up to the chosen step.
  const current = r => last(r.records.filter(x => x.step <= steps[moment])) || r.records[0];
  const at = layer => image * layer.heads + head;
  const drawn = (a, n) => uneven.checked ? lessMeans(a, n) : a;
  const unevenness = new Map();  // largest number drawn over all steps
  function full(r, layer, n, now) {
    if (!uneven.checked) return fullOf(r, layer);
    if (!same.checked) return largestOf(now);
    const key = [r.run.name, place, head, image].join();
    if (!unevenness.has(key)) unevenness.set(key, most(...r.records.map(x => x.layers[place]).filter(l => l && head < l.heads).map(l => largestOf(drawn(matrix(l, n), n)))));
    return unevenness.get(key);
  }
  const fullOf = (r, layer) => same.checked ? most(...r.records.map(x => x.layers[place]).filter(l => l && head < l.heads).map(l => l.largest[at(l)])) : layer.largest[at(layer)];
  const token = p => looking ? p.at(...looking) : p.first ? 0 : p.at(0.5, 0.5);

  // --- what to look at ---
  const thumbs = make("div", undefined, box); thumbs.className = "switch";
  const richest = recorded.reduce((a, b) => b.labels.length > a.labels.length ? b : a), pictures = [];
  richest.labels.forEach((label, i) => {
    const b = pressable(thumbs, "", i === 0, () => { image = i; pictures.forEach(([x], k) => x.setAttribute("aria-pressed", k === i)); draw(); });
    b.className = "thumb"; pictures.push([b, make("canvas", undefined, b)]); make("div", richest.labels.filter(l => l === label).length > 1 ? `${label} (${i})` : label, b);
  });
  const choices = () => { const c = make("div", undefined, box); c.className = "choices"; return c; };
  const labelled = (parent, text, tag, more) => { const l = make("label", undefined, parent); make("span", text, l); return Object.assign(make(tag, undefined, l), more); };
  const what = choices();
  const layerChoice = labelled(what, "layer", "select"), headChoice = labelled(what, "head", "select");
  for (const p of places) make("option", placeName(p), layerChoice).value = p;
  for (let h = 0; h < headCount; ++h) make("option", String(h), headChoice).value = h;
  layerChoice.onchange = () => { place = layerChoice.value; draw(); };
  headChoice.onchange = () => { head = +headChoice.value; draw(); };
  const firstImage = recorded[0].image(0), tokenChoice = labelled(what, "token", "input", {type: "number", min: 0, max: firstImage.tokens - 1, step: 1});
  const look = (p, t) => { looking = t < p.first ? undefined : p.middle(t); draw(); };
  tokenChoice.onchange = () => look(firstImage, Math.min(firstImage.tokens - 1, Math.max(0, Math.floor(+tokenChoice.value || 0))));
  const classButton = firstImage.first ? pressable(what, "Class token", true, () => look(firstImage, 0)) : undefined;
  const same = labelled(what, "same colours at all steps", "input", {type: "checkbox", checked: true});
  const uneven = labelled(what, "less the mean of its row", "input", {type: "checkbox"});
  same.onchange = uneven.onchange = () => draw();
  const when = choices(), play = make("button", "Play", when);
  const slider = labelled(when, "", "input", {type: "range", min: 0, max: steps.length - 1, value: moment, id: "recorded-step"}), say = make("span", undefined, when);
  play.type = "button"; play.onclick = () => timer ? stop() : start();
  slider.setAttribute("aria-label", "recorded step");
  slider.oninput = () => { moment = +slider.value; draw(); };
  function stop() { clearInterval(timer); timer = undefined; play.textContent = "Play"; }
  function start() {
    if (moment === steps.length - 1) moment = -1;
    play.textContent = "Stop";
    const next = () => { moment = Math.min(moment + 1, steps.length - 1); slider.value = moment; draw(); if (moment === steps.length - 1) stop(); };
    timer = setInterval(next, 500); next();
  }

  // --- one panel a run ---
  const panels = make("div", undefined, box); panels.className = "panels";
  const views = recorded.map(r => {
    const figure = make("figure", undefined, panels), title = make("figcaption", undefined, figure), pair = make("div", undefined, figure); pair.className = "pair";
    const left = make("div", undefined, pair), right = make("div", undefined, pair), small = parent => { const e = make("div", undefined, parent); e.className = "small"; return e; };
    const v = {r, title, matrix: easel(left, `${r.run.label}: the matrix`), image: easel(right, `${r.run.label}: attention over the image`)};
    Object.assign(v, {bar: colourBar(left), numbers: small(left), row: small(right), under: small(figure)});
    const over = (canvas, entry, click) => {
      canvas.addEventListener("pointermove", e => { const where = pointed(e); v.entry = () => entry(where); tell(v); });
      canvas.addEventListener("pointerleave", () => { v.entry = undefined; tell(v); });
      canvas.addEventListener("click", e => { if (v.a) look(v.p, click(pointed(e))); });
    };
    over(v.matrix.canvas, ([x, y]) => [Math.floor(y * v.p.tokens), Math.floor(x * v.p.tokens)], ([, y]) => Math.floor(y * v.p.tokens));
    over(v.image.canvas, ([x, y]) => [token(v.p), v.p.at(x, y)], ([x, y]) => v.p.at(x, y));
    return v;
  });
  // The number under the pointer.
  function tell(v) {
    v.under.textContent = "\u00a0";
    if (!v.entry || !v.a) return;
    const [i, j] = v.entry();
    v.under.textContent = `token ${i} (${v.p.name(i)}) looks at token ${j} (${v.p.name(j)}): ${number(v.a[i * v.p.tokens + j])}`;
  }
  const of = "Numbers at this step, every layer and head of this image", details = folded(box, of, true);

  function drawView(v) {
    const record = current(v.r), layer = image < v.r.labels.length ? record.layers[place] : undefined;
    v.a = undefined;
    v.title.textContent = `${v.r.run.label}, after step ${record.step}`;
    put(v.numbers, ""); v.row.textContent = ""; v.bar.show(false, false, "", "", "");
    v.matrix.mark(); v.image.mark();
    if (!layer || head >= layer.heads) { put(v.numbers, "not recorded"); for (const c of [v.matrix.canvas, v.image.canvas]) paint(c, 1, 1, zero); return tell(v); }
    const p = v.p = v.r.image(image), n = p.tokens, a = v.a = matrix(layer, n), t = token(p), row = a.subarray(t * n, (t + 1) * n), d = drawn(a, n);
    const signed = uneven.checked || v.r.records.some(x => x.layers[place] && x.layers[place].min.some(m => m < 0)), largest = full(v.r, layer, n, d) || 1;
    paintMatrix(v.matrix.canvas, n, d, largest); v.matrix.mark(0, t / n, 1, 1 / n);
    paintOver(v.image.canvas, p, d.subarray(t * n, (t + 1) * n), largest); v.image.mark(...p.part(t));
    const sum = b => b.reduce((s, x) => s + x, 0), i = at(layer), bad = notFinite(a);
    v.bar.show(signed, bad, signed ? number(-largest) : "0", signed ? "0" : number(largest / 2), number(largest));
    put(v.numbers, `‖A‖_F ${number(layer.fro[i])}, from ${number(layer.min[i])} to ${number(layer.max[i])}` + (bad ? `; ${bad} numbers are not finite` : ""));
    v.row.textContent = `Where ${p.name(t)} (token ${t}) looks. To all patches ${number(sum(row.subarray(p.first)))}` + (p.first ? `, to the class token ${number(row[0])}.` : ".");
    tell(v);
  }
  function numbers() {
    details.replaceChildren(details.firstChild);
    if (!details.open) return;
    table(details, ["run", "step", "layer", "head", "‖A‖_F", "least", "largest"], recorded.flatMap(r => image < r.labels.length ? places.flatMap(p => {
      const x = current(r), l = x.layers[p];
      return l ? [...Array(l.heads).keys()].map(h => [r.run.label, String(x.step), placeName(p), String(h), ...["fro", "min", "max"].map(k => l[k][image * l.heads + h])]) : [];
    }) : []), of);
  }
  function draw() {
    pictures.forEach(([, canvas], i) => paintPicture(canvas, richest.image(i)));
    say.textContent = `step ${steps[moment]} of ${last(steps)}`; slider.setAttribute("aria-valuetext", say.textContent);
    tokenChoice.value = token(firstImage);
    if (classButton) classButton.setAttribute("aria-pressed", token(firstImage) === 0);
    views.forEach(drawView); numbers();
  }
  details.ontoggle = numbers; night.addEventListener("change", draw);
  draw();
}
