// The datum: chosen from the data, drawn with the mouse, partly hidden; its pictures, or its row of a table.

const datum = { index: 0, x: null, chosenClass: null, answer: null, decoded: null, stale: false, cursor: [0, 0], version: 0 };
const isImage = () => start.view.kind === "image";

// The datum as the server is told of it; `x` only where it was changed.
function given(withValues = true) {
  const fields = { index: datum.index };
  if (withValues && datum.x) fields.x = datum.x;
  if (datum.chosenClass !== null) fields.class = datum.chosenClass;
  return fields;
}

const looking = new Latest(async (outdated) => {
  const fields = given();
  datum.version += 1;
  if (start.kind === "codes") return showCodesOf(await ask("codes", fields));
  let moved = false;
  const show = (answer) => {
    datum.answer = answer;
    datum.stale = false;
    plane.refined = null;
    if (answer.pending) plane.draws = null;
    showDatum();
    if (!moved) movePoint(answer.place);
    moved = true;
  };
  await busy(start.can.grid ? "Computing the true posterior" : "Computing the numbers", async (progress) => {
    show(await ask("datum", { ...fields, ...where() }, { outdated, progress, partly: show }));
    if (plane.weighed) await showDraws(fields, { outdated });
  });
  showLegend();
  if (start.can.restore) await showRestored(fields, outdated);
});

// Whether what is computed is of another datum by now.
function changedSince() {
  const version = datum.version;
  return () => datum.version !== version;
}

function choose(index) {
  datum.index = Math.min(Math.max(0, Math.round(index) || 0), start.num_data - 1);
  datum.x = null;
  byId("index").value = datum.index;
  for (const thumb of byId("thumbs").children) {
    thumb.setAttribute("aria-current", String(Number(thumb.dataset.index) === datum.index));
  }
  const label = start.labels ? start.labels[datum.index] : -1;
  byId("datum-label").textContent = label >= 0 ? `label ${label}` : "";
  looking.run();
}

function showThumbs() {
  if (!isImage()) return;
  const all = start.model ? rows(unpack(start.model.x)) : null;
  const pictures = all ? start.thumbs.index.map((index) => all[index]) : rows(unpack(start.thumbs.x));
  byId("thumbs").replaceChildren(...start.thumbs.index.map((index, i) => {
    const button = element("button", { type: "button", className: "thumb" }, thumbnail(pictures[i], 38));
    button.dataset.index = index;
    button.setAttribute("aria-label", `Datum ${index}${start.labels && start.labels[index] >= 0 ? `, label ${start.labels[index]}` : ""}`);
    button.addEventListener("click", () => choose(index));
    return button;
  }));
}

// The values that the datum has now: numbers, null where hidden.
function valuesNow() {
  if (datum.x) return datum.x;
  const x = [...unpack(datum.answer.x).data], seen = datum.answer.mask && unpack(datum.answer.mask).data;
  return x.map((value, i) => seen && !seen[i] || !Number.isFinite(value) ? null : value);
}

function showDatum() {
  if (isImage()) showPictures(); else showTable();
  showNumbers();
  drawPlane();
}

function showDecoded(answer) {
  if (isImage()) drawImage(byId("decoded"), unpack(answer.x).data); else showTable();
}

// ---- images -------------------------------------------------------------------------------------------------------

function showPictures() {
  drawEditor();
  drawImage(byId("reconstruction"), unpack(datum.answer.reconstruction.x).data);
}

function drawEditor() {
  const values = valuesNow();
  drawImage(byId("editor"), values.map((v) => v ?? 0), values.map((v) => v === null ? 0 : 1));
  if (document.activeElement === byId("editor")) {
    const context = byId("editor").getContext("2d");
    context.fillStyle = `${colour("accent")}aa`;
    context.fillRect(...datum.cursor, 1, 1);
  }
}

function tool() {
  return document.querySelector('input[name="tool"]:checked').value;
}

// Apply the tool to a pixel; `flipped` are those that a stroke has flipped already.
function paint(column, row, flipped) {
  const { height, width, channels, last, low, high } = start.view;
  if (column < 0 || row < 0 || column >= width || row >= height) return;
  datum.x = datum.x || valuesNow();
  for (let channel = 0; channel < channels; channel++) {
    const pixel = row * width + column, i = last ? pixel * channels + channel : channel * height * width + pixel;
    const value = datum.x[i];
    if (tool() === "draw") datum.x[i] = high;
    if (tool() === "erase") datum.x[i] = low;
    if (tool() === "hide") datum.x[i] = null;
    if (tool() === "flip" && !flipped.has(i)) { datum.x[i] = value === null ? high : low + high - value; flipped.add(i); }
  }
}

let later = 0;
function changed() {
  byId("datum-label").textContent = "changed";
  if (isImage()) drawEditor();
  clearTimeout(later);
  later = setTimeout(() => looking.run(), 60);
}

function listenToEditor() {
  const canvas = byId("editor");
  let flipped = null, from = null;
  const pixel = (event) => {
    const edge = canvas.getBoundingClientRect();
    return [(event.clientX - edge.left) / edge.width * start.view.width, (event.clientY - edge.top) / edge.height * start.view.height];
  };
  const stroke = (event) => {
    const to = pixel(event), steps = Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])) || 1;
    const reach = tool() === "flip" ? 0 : Math.floor(start.view.width / 28);
    for (let s = 0; s <= steps; s++) {
      const [column, row] = [0, 1].map((i) => Math.floor(from[i] + s / steps * (to[i] - from[i])));
      for (let a = 0; a <= reach; a++) for (let b = 0; b <= reach; b++) paint(column + a, row + b, flipped);
    }
    from = to;
    datum.cursor = to.map((v, i) => Math.min([start.view.width, start.view.height][i] - 1, Math.max(0, Math.floor(v))));
    changed();
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!datum.answer) return;
    canvas.setPointerCapture(event.pointerId);
    [flipped, from] = [new Set(), pixel(event)];
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => { if (flipped) stroke(event); });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { flipped = null; });
  for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => { if (datum.answer) drawEditor(); });
  canvas.addEventListener("keydown", editByKey);
  byId("clear").addEventListener("click", () => setValues(() => start.view.low));
  byId("hide-half").addEventListener("click", () => setValues((value, i) => isLower(i) ? null : value));
  for (const id of ["reset", "table-reset"]) byId(id).addEventListener("click", () => choose(datum.index));
}

function setValues(change) {
  if (!datum.answer) return;
  datum.x = valuesNow().map(change);
  changed();
}

function isLower(i) {
  const { height, width, channels, last } = start.view;
  const pixel = last ? Math.floor(i / channels) : i % (height * width);
  return pixel >= Math.floor(height / 2) * width;
}

function editByKey(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const size = [start.view.width, start.view.height];
  if (step) datum.cursor = datum.cursor.map((v, i) => Math.min(size[i] - 1, Math.max(0, v + step[i])));
  else if (event.key === " ") { paint(...datum.cursor, new Set()); changed(); } else return;
  event.preventDefault();
  drawEditor();
  const value = valuesNow()[datum.cursor[1] * size[0] + datum.cursor[0]];
  say(`row ${datum.cursor[1] + 1}, column ${datum.cursor[0] + 1}: ${value === null ? "hidden" : number(value)}`);
}

// ---- rows of a table ----------------------------------------------------------------------------------------------

const MOST_COLUMNS = 40;

function columns() {
  const { kind, size, low, high } = start.view;
  if (kind === "table") return start.view.columns;
  return Array.from({ length: Math.min(size, MOST_COLUMNS) }, (_, i) => ({ name: `x[${i}]`, kind: "real", levels: [], low, high }));
}

function showTable() {
  if (!datum.answer) return;
  const holder = byId("table");
  if (!holder.rows.length) makeTable(holder);
  const now = valuesNow(), sides = [datum.answer.reconstruction, datum.decoded];
  columns().forEach((column, i) => {
    const cells = holder.rows[i + 1].cells;
    const field = cells[1].querySelector("select, input[type=number]");
    if (document.activeElement !== field) field.value = now[i] === null ? "" : column.levels.length ? String(now[i]) : Number(now[i].toPrecision(6));
    const hide = cells[1].querySelector("input[type=checkbox]");
    if (hide) hide.checked = now[i] === null;
    sides.forEach((side, s) => { if (side) cells[2 + s].replaceChildren(...bars(column, side, i)); });
  });
}

function makeTable(holder) {
  const heads = ["column", "datum x", "reconstruction", "E[x|z] at the point"];
  const cell = (i) => Object.assign(element("td", { role: "cell" }), { title: heads[i] });
  const head = element("tr", { role: "row" }, ...heads.map((text) => element("th", { scope: "col", role: "columnheader" }, text)));
  const body = element("tbody", { role: "rowgroup" });
  columns().forEach((column, i) => {
    const own = cell(1);
    own.append(fieldOf(column, i));
    if (start.can.mask) own.append(hideBox(column, i));
    body.append(element("tr", { role: "row" }, element("th", { scope: "row", role: "rowheader" }, ...breakable(column.name)), own, cell(2), cell(3)));
  });
  holder.setAttribute("role", "table"); // said again, since on a narrow screen rows are laid out as grids
  holder.append(element("thead", { role: "rowgroup" }, head), body);
}

// A name that may go on in the next line after each of its parts.
function breakable(name) {
  return name.split(/(?<=[_.])/).flatMap((part, i) => i ? [element("wbr"), part] : [part]);
}

function fieldOf(column, i) {
  const field = column.levels.length
    ? element("select", {}, element("option", { value: "" }, ""), ...column.levels.map((text, k) => element("option", { value: String(k) }, text)))
    : element("input", { type: "number", step: ["count", "binary"].includes(column.kind) ? "1" : "any" });
  field.setAttribute("aria-label", column.name);
  field.addEventListener("change", () => {
    datum.x = valuesNow();
    datum.x[i] = field.value === "" ? null : Number(field.value);
    changed();
  });
  return field;
}

function hideBox(column, i) {
  const box = element("input", { type: "checkbox" });
  box.setAttribute("aria-label", `hide ${column.name}`);
  box.addEventListener("change", () => {
    const whole = unpack(datum.answer.x).data[i];
    datum.x = valuesNow();
    datum.x[i] = box.checked ? null : whole;
    changed();
  });
  return element("label", { className: "quiet" }, " ", box, " hide");
}

function bars(column, side, i) {
  const value = unpack(side.x).data[i], levels = side.levels && side.levels[0][i];
  if (levels) {
    const best = levels.indexOf(Math.max(...levels));
    return levels.map((share, k) => element("div", { className: k === best ? "level best" : "level" }, column.levels[k], bar(share), number(share)));
  }
  return [element("span", {}, short(value)), bar((value - column.low) / (column.high - column.low || 1))];
}

function bar(share) {
  const inner = element("i");
  inner.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  return element("div", { className: "bar" }, inner);
}

// A number of a table, with about four digits.
function short(value) {
  return number(value, Math.max(0, Math.min(3, 3 - Math.floor(Math.log10(Math.abs(value) || 1)))));
}

function levelText(column, value) {
  return column.levels.length ? column.levels[Math.round(value)] : short(value);
}

// ---- what is missing ----------------------------------------------------------------------------------------------

async function showRestored(fields, outdated) {
  const flip = Number(byId("flip").value) || 0, values = valuesNow(), note = byId("restored-note");
  if (!flip && !values.some((value) => value === null)) {
    byId("restored").replaceChildren();
    byId("restored-table").hidden = true;
    note.textContent = "Nothing is hidden.";
    return;
  }
  note.textContent = "Drawing ...";
  const progress = (share) => { note.textContent = `Refining q: ${number(100 * share, 0)} %`; };
  const found = await ask("restore", { ...fields, flip, better: byId("better").checked }, { outdated, progress });
  const draws = rows(unpack(found.draws));
  if (isImage()) {
    const tiles = [tile(unpack(found.mean).data, "mean"), ...draws.map((x, i) => tile(x, `draw ${i + 1}`))];
    byId("restored").replaceChildren(...tiles);
  } else showRestoredTable(draws, values);
  const distrust = `The draws are not to be trusted${found.method === "refined" ? ", even of a refined q" : ": refine q first"}.`;
  const health = `effective draws ${number(found.ess, 0)} of ${found.num_particles}, k-hat ${tailText(found)}`;
  note.textContent = `${health}. ${found.flagged ? distrust : ""}`;
}

function showRestoredTable(draws, values) {
  const holder = byId("restored-table");
  holder.hidden = false;
  const lines = columns().map((column, i) => [column, i]).filter(([, i]) => values[i] === null);
  holder.replaceChildren(
    element("caption", { className: "hidden" }, "Draws of the hidden columns"),
    ...lines.map(([column, i]) => element("tr", {}, element("th", { scope: "row" }, ...breakable(column.name)),
      ...draws.map((draw) => element("td", {}, levelText(column, draw[i]))))),
  );
}
