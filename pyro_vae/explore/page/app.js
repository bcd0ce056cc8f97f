// The page as a whole: what is shown for this model, and what happens on which event.

function showHead() {
  byId("title").textContent = start.facts.run || "Explore";
  document.title = `${start.facts.run || "model"} — explore`;
  const facts = Object.entries(start.facts).filter(([name]) => name !== "run");
  byId("facts").replaceChildren(...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

function showParts() {
  const image = isImage(), planar = start.kind === "plane";
  for (const id of ["pictures", "tools", "editor-keys"]) byId(id).hidden = !image;
  for (const id of ["table-box", "table-tools"]) byId(id).hidden = image;
  for (const id of ["hide-tool", "hide-half", "hide-note"]) byId(id).hidden = !start.can.mask;
  byId("plane-card").hidden = byId("traverse-card").hidden = !planar;
  byId("codes-card").hidden = planar;
  byId("entries-box").hidden = !image;
  byId("restore-card").hidden = !start.can.restore;
  byId("flip-row").hidden = !start.view.binary;
  byId("class-label").hidden = !start.classes;
  byId("alone-card").hidden = !start.model;
  if (start.model) byId("alone-weights").textContent = `${start.model.weights}.`.replace("weights", "Weights");
  if (!planar) {
    byId("numbers-title").textContent = "Numbers";
    byId("reconstruction-caption").textContent = "reconstruction: E[x|k] at the datum’s code";
    byId("decoded-caption").textContent = "E[x|k] of the code map";
  }
  if (planar && isLine()) {
    byId("plane-title").textContent = "Latent code";
    byId("plane-note").textContent = "Each tick is the mean code of a datum. Move along the line: the point is decoded at once. Click at a tick to choose its datum.";
  }
  if (start.can.layers) {
    byId("plane-note").textContent += ` The plane is that of ${start.site}; E[x|${start.site}] is an average over draws of the other sites.`;
  }
}

function options(select, names, chosen) {
  select.replaceChildren(...names.map(([value, text]) => element("option", { value: String(value), selected: value === chosen }, text)));
}

function showFrame() {
  const names = frameNow().names.map((name, i) => [i, name]).filter(([, name]) => name);
  options(byId("axis-x"), names, plane.axes[0]);
  options(byId("axis-y"), names, plane.axes[1]);
  options(byId("traverse-axis"), names, plane.axes[0]);
  for (const id of ["axis-x", "axis-y"]) byId(id).parentElement.hidden = names.length < 3;
  byId("sliders-box").open = names.length > 2;
  byId("plane-card").classList.toggle("many", names.length > 2);
}

function listen() {
  listenToEditor();
  byId("index").max = start.num_data - 1;
  byId("index").addEventListener("change", () => choose(Number(byId("index").value)));
  byId("before").addEventListener("click", () => choose(datum.index - 1));
  byId("after").addEventListener("click", () => choose(datum.index + 1));
  byId("refine").addEventListener("click", () => refining.run());
  byId("draws").addEventListener("click", () => drawing.run());
  byId("flip").addEventListener("change", () => looking.run());
  byId("better").addEventListener("change", () => looking.run());
  byId("codes-reset").addEventListener("click", () => looking.run());
  byId("traverse-axis").addEventListener("change", () => traversing.run());
  byId("zoom").addEventListener("click", () => zoomTo(!plane.zoomed));
  byId("class").addEventListener("change", () => {
    datum.chosenClass = byId("class").value === "" ? null : Number(byId("class").value);
    looking.run();
  });
  const redraw = () => {
    if (start.kind === "plane") { drawPlane(); if (plane.answer) showLegend(); }
    if (datum.answer && start.kind === "plane") showNumbers();
  };
  window.addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

function listenToFrames() {
  listenToPlane();
  const other = Object.keys(start.frames);
  const by = start.frames.coordinates.unit === "variance" ? "variance" : "KL";
  const names = { coordinates: `of the code, by ${by}`, principal: "principal axes" };
  byId("frame-label").hidden = other.length < 2;
  options(byId("frame"), other.map((name) => [name, names[name]]), "coordinates");
  byId("frame").addEventListener("change", () => {
    plane.frame = byId("frame").value;
    plane.axes = [0, 1];
    planeChanged();
  });
  for (const [id, i] of [["axis-x", 0], ["axis-y", 1]]) {
    byId(id).addEventListener("change", () => {
      const axes = [...plane.axes];
      axes[i] = Number(byId(id).value);
      if (axes[0] === axes[1]) axes[1 - i] = plane.axes[i];
      plane.axes = axes;
      planeChanged();
    });
  }
}

async function planeChanged() {
  datum.stale = true;
  plane.refined = null;
  showFrame();
  await planeAsked.run();
  await looking.run();
}

// What an address ends with: `#datum=5&zoom` begins with datum 5, and the plane around it.
function wanted() {
  const found = new URLSearchParams(location.hash.slice(1)), index = Number(found.get("datum"));
  return { index: Number.isInteger(index) ? index : 0, zoom: found.has("zoom") };
}

function zoomTo(zoomed) {
  plane.zoomed = zoomed;
  byId("zoom").setAttribute("aria-pressed", String(plane.zoomed));
  drawPlane();
}

function begin() {
  showHead();
  showParts();
  showThumbs();
  options(byId("class"), [["", "any"], ...Array.from({ length: start.classes }, (_, y) => [y, String(y)])], "");
  listen();
  if (start.kind === "plane") {
    listenToFrames();
    plane.w = frameNow().names.map(() => 0);
    showFrame();
    showLabels();
    planeAsked.run();
  }
  const { index, zoom } = wanted();
  if (zoom) zoomTo(true);
  choose(index);
}

begin();
