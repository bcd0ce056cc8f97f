// The latent plane: data by label, prior, guide, true posterior, and the point.

const plane = {
  frame: "coordinates", axes: [0, 1], w: [], answer: null, codes: [], only: null, zoomed: false, refined: null, draws: null,
  weighed: start.can.draws && !start.can.grid,
};
const SHARES = [0.5, 0.9];
const EDGE = { left: 46, right: 12, top: 10, bottom: 34 };

const where = () => ({ frame: plane.frame, axes: plane.axes });
const frameNow = () => start.frames[plane.frame];

function box() {
  let { low, high } = plane.answer;
  if (plane.zoomed && datum.answer) [low, high] = aroundDatum(low, high);
  const reach = Math.max(high[0] - low[0], high[1] - low[1]) / 2;
  const middle = [0, 1].map((i) => (low[i] + high[i]) / 2);
  return { low: middle.map((m) => m - reach), high: middle.map((m) => m + reach) };
}

const NEAR = 8; // nats below the maximum to which a zoomed plane reaches: four standard deviations of a normal

// The corners around the datum's guide and true posterior, where they are known.
function aroundDatum(low, high) {
  const { guide, posterior, place } = datum.answer, reached = [];
  if (guide.kind === "normal") {
    for (const side of [-3.5, 3.5]) reached.push(guide.mean.map((v, i) => v + side * Math.sqrt(guide.covariance[i][i])));
  } else reached.push(...rows(unpack(guide.draws)));
  if (posterior && posterior.found) {
    const { shape: [lines, columns], data } = unpack(posterior.log_density), top = data.reduce((a, b) => Math.max(a, b), -Infinity);
    const at = (i, share) => posterior.low[i] + share * (posterior.high[i] - posterior.low[i]);
    data.forEach((value, k) => {
      if (value > top - NEAR) reached.push([at(0, k % columns / (columns - 1)), at(1, Math.floor(k / columns) / (lines - 1))]);
    });
  }
  if (!reached.length) reached.push(plane.axes.map((axis) => place[axis]));
  const bound = (most) => [0, 1].map((i) => reached.reduce((found, point) => most(found, point[i]), reached[0][i]));
  const [least, greatest] = [bound(Math.min), bound(Math.max)], reach = (high[0] - low[0]) / 50;
  return [least.map((v) => v - reach), greatest.map((v) => v + reach)];
}

// Maps between the plane and CSS pixels of the canvas.
function mapping(width, height) {
  const { low, high } = box(), inner = [width - EDGE.left - EDGE.right, height - EDGE.top - EDGE.bottom];
  const unit = (high[0] - low[0]) / Math.min(...inner);
  const middle = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2];
  const centre = [EDGE.left + inner[0] / 2, EDGE.top + inner[1] / 2];
  return {
    unit,
    to: ([u, v]) => [centre[0] + (u - middle[0]) / unit, centre[1] - (v - middle[1]) / unit],
    from: ([x, y]) => [middle[0] + (x - centre[0]) * unit, middle[1] - (y - centre[1]) * unit],
    limits: [middle[0] - inner[0] * unit / 2, middle[0] + inner[0] * unit / 2,
      middle[1] - inner[1] * unit / 2, middle[1] + inner[1] * unit / 2],
  };
}

function drawPlane() {
  if (!plane.answer) return;
  const [context, width, height] = sharp(byId("plane"));
  if (Math.min(width, height) < 100) return;
  const map = mapping(width, height);
  context.font = "12px system-ui, sans-serif";
  if (isLine()) {
    drawLine(context, map, width, height);
    return;
  }
  drawAxes(context, map, width, height);
  context.save();
  context.beginPath();
  context.rect(EDGE.left, EDGE.top, width - EDGE.left - EDGE.right, height - EDGE.top - EDGE.bottom);
  context.clip();
  drawPrior(context, map);
  drawComponents(context, map);
  if (!datum.stale) drawPosterior(context, map);
  drawCodes(context, map);
  drawDraws(context, map);
  if (datum.answer && !datum.stale) drawGuide(context, map, datum.answer.guide, colour("ink"), [5, 4]);
  if (plane.refined) drawGuide(context, map, plane.refined.guide, colour("ink"), []);
  drawPoint(context, map);
  context.restore();
}

function drawAxes(context, map, width, height) {
  const [left, right, low, high] = map.limits, names = frameNow().names;
  context.lineWidth = 1;
  context.strokeStyle = colour("rule");
  context.fillStyle = colour("faint");
  context.textAlign = "center";
  const across = ticks(left, right), up = ticks(low, high);
  for (const value of across.values) {
    const [x] = map.to([value, 0]);
    line(context, [x, EDGE.top], [x, height - EDGE.bottom]);
    context.fillText(number(value, across.digits), x, height - EDGE.bottom + 15);
  }
  context.textAlign = "right";
  for (const value of up.values) {
    const [, y] = map.to([0, value]);
    line(context, [EDGE.left, y], [width - EDGE.right, y]);
    context.fillText(number(value, up.digits), EDGE.left - 6, y + 4);
  }
  context.fillStyle = colour("ink");
  context.fillText(names[plane.axes[0]], width - EDGE.right, height - 4);
  context.save();
  context.translate(11, EDGE.top);
  context.rotate(-Math.PI / 2);
  context.fillText(names[plane.axes[1]], 0, 0);
  context.restore();
}

function line(context, from, to) {
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}

function dot(context, at, radius) {
  context.beginPath();
  context.arc(at[0], at[1], radius, 0, 2 * Math.PI);
  context.fill();
}

function drawNormal(context, map, normal, share) {
  const [x, y] = map.to(normal.mean), { rx, ry, angle } = ellipse(normal.covariance, share);
  context.beginPath();
  context.ellipse(x, y, rx / map.unit, ry / map.unit, -angle, 0, 2 * Math.PI);
  context.stroke();
}

function drawContours(context, map, grid, low, high, shares) {
  const columns = grid.shape[1], lines = grid.shape[0];
  const at = ([c, r]) => map.to([low[0] + c / (columns - 1) * (high[0] - low[0]), low[1] + r / (lines - 1) * (high[1] - low[1])]);
  for (const level of massLevels(grid.data, shares)) {
    for (const [from, to] of contour(grid.data, columns, level)) line(context, at(from), at(to));
  }
}

function drawPrior(context, map) {
  const { prior, low, high } = plane.answer;
  context.strokeStyle = context.fillStyle = colour("faint");
  context.setLineDash([1, 3]);
  context.lineWidth = 1.4;
  if (prior.kind === "normal") for (const share of [0.5, 0.9, 0.99]) drawNormal(context, map, prior, share);
  if (prior.kind === "grid") drawContours(context, map, unpack(prior.log_density), low, high, [0.5, 0.9, 0.99]);
  context.setLineDash([]);
  if (prior.kind !== "draws") return;
  context.globalAlpha = 0.35;
  for (const draw of rows(unpack(prior.draws))) {
    const [x, y] = map.to(draw);
    context.fillRect(x - 1, y - 1, 2, 2);
  }
  context.globalAlpha = 1;
}

const MOST_ELLIPSES = 30; // of more components only the middles are drawn

// A diamond at the middle of each component of the prior, its area by weight, and where there are not many its ellipse.
function drawComponents(context, map) {
  if (!plane.answer.components) return;
  const found = plane.answer.components.largest;
  context.strokeStyle = colour("component");
  context.fillStyle = colour("card");
  const most = Math.max(...found.map((c) => c.weight));
  for (const component of found) {
    context.lineWidth = 1;
    context.globalAlpha = 0.55;
    if (found.length <= MOST_ELLIPSES) drawNormal(context, map, component, 0.5);
    context.globalAlpha = 1;
    context.lineWidth = 1.6;
    diamond(context, map.to(component.mean), 2 + 3.5 * Math.sqrt(component.weight / most));
  }
}

function diamond(context, [x, y], radius) {
  context.beginPath();
  context.moveTo(x, y - radius);
  for (const [a, b] of [[1, 0], [0, 1], [-1, 0]]) context.lineTo(x + a * radius, y + b * radius);
  context.closePath();
  context.fill();
  context.stroke();
}

function drawPosterior(context, map) {
  const found = datum.answer && datum.answer.posterior;
  if (!found) return;
  const grid = unpack(found.log_density), [lines, columns] = grid.shape;
  const top = grid.data.reduce((a, b) => Math.max(a, b), -Infinity), picture = element("canvas");
  picture.width = columns;
  picture.height = lines;
  const inner = picture.getContext("2d"), image = inner.createImageData(columns, lines), [r, g, b] = rgb(colour("accent"));
  for (let row = 0; row < lines; row++) {
    for (let column = 0; column < columns; column++) {
      const share = Math.exp(grid.data[(lines - 1 - row) * columns + column] - top);
      image.data.set([r, g, b, 200 * share], 4 * (row * columns + column));
    }
  }
  inner.putImageData(image, 0, 0);
  const half = [0, 1].map((i) => (found.high[i] - found.low[i]) / (columns - 1) / 2);
  const corner = map.to([found.low[0] - half[0], found.high[1] + half[1]]);
  const other = map.to([found.high[0] + half[0], found.low[1] - half[1]]);
  context.drawImage(picture, ...corner, other[0] - corner[0], other[1] - corner[1]);
  context.strokeStyle = colour("accent");
  context.lineWidth = 2;
  drawContours(context, map, grid, found.low, found.high, SHARES);
}

function rgb(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

function drawCodes(context, map) {
  const near = plane.zoomed ? 3.2 : 2.6;
  plane.codes.forEach((code, i) => {
    const label = start.labels ? start.labels[i] : -1, shown = plane.only === null || plane.only === label;
    context.globalAlpha = shown ? 0.75 : 0.08;
    context.fillStyle = labelColour(label);
    dot(context, map.to(code), near);
  });
  context.globalAlpha = 1;
}

function drawGuide(context, map, guide, ink, dashes) {
  context.strokeStyle = context.fillStyle = ink;
  context.lineWidth = 2;
  if (guide.kind === "normal") {
    context.setLineDash(dashes);
    for (const share of SHARES) drawNormal(context, map, guide, share);
    context.setLineDash([]);
  } else {
    context.globalAlpha = 0.6;
    for (const draw of rows(unpack(guide.draws))) dot(context, map.to(draw), dashes.length ? 1.3 : 1.8);
    context.globalAlpha = 1;
  }
}

const LARGEST = 14; // pixels: a draw with nearly all of the weight would cover the plane

function drawDraws(context, map) {
  if (!plane.draws) return;
  const shares = unpack(plane.draws.shares).data, draws = rows(unpack(plane.draws.draws));
  context.globalAlpha = 0.4;
  context.fillStyle = colour("gap");
  const radius = (share) => Math.min(LARGEST, Math.max(0.4, 1.7 * Math.sqrt(share * draws.length)));
  draws.forEach((draw, k) => dot(context, map.to(draw), radius(shares[k])));
  context.globalAlpha = 1;
}

function drawPoint(context, map) {
  const [x, y] = map.to(plane.axes.map((axis) => plane.w[axis]));
  context.strokeStyle = colour("ink");
  context.lineWidth = 1.5;
  line(context, [x - 9, y], [x - 3, y]);
  line(context, [x + 3, y], [x + 9, y]);
  line(context, [x, y - 9], [x, y - 3]);
  line(context, [x, y + 3], [x, y + 9]);
}

const decoding = new Latest(async () => {
  const answer = await ask("decode", { ...given(false), frame: plane.frame, places: [plane.w] });
  datum.decoded = answer;
  showDecoded(answer);
});

const planeAsked = new Latest(async () => {
  plane.answer = await ask("plane", { index: datum.index, ...where() });
  plane.codes = rows(unpack(plane.answer.codes));
  showLegend();
  drawPlane();
  await showComponents();
});

const MOST_DECODED = 24;

// The largest components of the prior, each decoded at its mean, where the point can be put.
async function showComponents() {
  const all = plane.answer.components, found = all ? all.largest.slice(0, MOST_DECODED) : [];
  byId("components-box").hidden = !found.length;
  byId("plane-card").classList.toggle("mixed", found.length > 0);
  if (!found.length) return;
  const more = all.count > found.length ? `, the ${found.length} of largest weight` : "";
  byId("components-note").textContent = `E[x|z] at the mean of each${more}, with its weight. Choose one to put the point there.`;
  const pictures = rows(unpack((await ask("decode", { ...given(false), frame: plane.frame, places: found.map((c) => c.place) })).x));
  byId("components").replaceChildren(...found.map((component, k) => {
    const weight = number(component.weight, component.weight < 0.01 ? 3 : 2);
    const shown = isImage() ? [thumbnail(pictures[k], 36)] : [`component ${k + 1}:`];
    const button = element("button", { type: "button", className: "thumb" }, ...shown, weight);
    button.setAttribute("aria-label", `component ${k + 1}, weight ${weight}`);
    button.addEventListener("click", () => movePoint([...component.place]));
    return button;
  }));
}

let resting = 0; // the traversal follows when the point rests

// Move the point: the plane, sliders and the decoded picture follow.
function movePoint(w) {
  plane.w = w;
  drawPlane();
  showSliders();
  decoding.run();
  const names = frameNow().names;
  say(plane.axes.map((axis) => `${names[axis]} = ${number(w[axis])}`).join(", "));
  clearTimeout(resting);
  resting = setTimeout(() => traversing.run(), 250);
}

function movedTo(place) {
  const w = [...plane.w];
  plane.axes.forEach((axis, i) => { if (frameNow().names[axis]) w[axis] = place[i]; });
  return w;
}

function nearestDatum(map, place) {
  let best = -1, least = Infinity;
  const [x, y] = map.to(place);
  plane.codes.forEach((code, i) => {
    const [a, b] = map.to(code), distance = isLine() ? Math.abs(a - x) : Math.hypot(a - x, b - y);
    if (distance < least && (plane.only === null || start.labels[i] === plane.only)) [best, least] = [i, distance];
  });
  return [best, least];
}

function listenToPlane() {
  const canvas = byId("plane");
  const placeOf = (event) => {
    const edge = canvas.getBoundingClientRect(), map = mapping(Math.round(edge.width), Math.round(edge.height));
    return [map, map.from([event.clientX - edge.left, event.clientY - edge.top])];
  };
  canvas.addEventListener("pointermove", (event) => { if (plane.answer) movePoint(movedTo(placeOf(event)[1])); });
  canvas.addEventListener("click", (event) => {
    if (!plane.answer) return;
    const [map, place] = placeOf(event), [index, distance] = nearestDatum(map, place);
    if (distance < 12) choose(index);
  });
  canvas.addEventListener("keydown", (event) => {
    if (!plane.answer) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const edge = canvas.getBoundingClientRect(), map = mapping(edge.width, edge.height);
    const place = plane.axes.map((axis) => plane.w[axis]);
    if (steps) {
      const far = (event.shiftKey ? 40 : 8) * map.unit;
      movePoint(movedTo(place.map((v, i) => v + far * steps[i])));
    } else if (event.key === "Enter") {
      choose(nearestDatum(map, place)[0]);
    } else return;
    event.preventDefault();
  });
}

function showLegend() {
  if (!plane.answer) return;
  const kinds = [["data, mean codes", "data"], ["prior p(z): 50, 90, 99 % of its mass", "prior"]];
  if (isLine()) {
    showLegendOf([["data, mean codes", "data"], ["prior p(z)", "prior"], ["guide q(z|x)", "guide"],
      ...(plane.refined ? [["refined guide", "refined"]] : []), ...(plane.draws ? [["importance draws, weighed: the posterior", "draws"]] : [])]);
    return;
  }
  if (plane.answer.prior.kind === "draws") kinds[1] = ["draws of the prior p(z)", "prior", true];
  if (plane.answer.components) kinds.push([`${componentsText(plane.answer.components)}, area by weight`, "component"]);
  if (start.can.grid) kinds.push(["true posterior p(z|x): 50, 90 %", "posterior"]);
  const drawn = Boolean(datum.answer) && datum.answer.guide.kind === "draws", of = drawn ? "draws" : "50, 90 %";
  kinds.push([`guide q(z|x): ${of}`, "guide", drawn]);
  if (plane.refined) kinds.push([`refined guide: ${of}`, "refined", drawn]);
  if (plane.draws) kinds.push(["importance draws, area by weight: the posterior", "draws"]);
  showLegendOf(kinds);
}

function showLegendOf(kinds) {
  byId("legend").replaceChildren(...kinds.map(([text, kind, drawn]) => element("li", {}, legendMark(kind, drawn), text)));
}

function componentsText({ count, largest }) {
  return largest.length < count ? `components of the prior, ${largest.length} of ${count}` : "components of the prior";
}

function legendMark(kind, drawn = false) {
  const canvas = element("canvas", { width: 52, height: 28 }), context = canvas.getContext("2d");
  canvas.setAttribute("aria-hidden", "true");
  context.scale(2, 2);
  context.lineWidth = 2;
  context.fillStyle = context.strokeStyle = colour({ prior: "faint", posterior: "accent", draws: "gap", component: "component" }[kind] || "ink");
  if (drawn) {
    for (const at of [[6, 9], [12, 4], [15, 10], [20, 6]]) dot(context, at, kind === "refined" ? 1.8 : 1.3);
  } else if (kind === "component") {
    context.fillStyle = colour("card");
    diamond(context, [8, 7], 5);
    diamond(context, [20, 7], 3);
  } else if (kind === "data" || kind === "draws") {
    if (kind === "data") context.fillStyle = start.labels ? LABELS[0] : colour("faint");
    dot(context, [7, 8], 3);
    if (kind === "data" && start.labels) context.fillStyle = LABELS[1];
    dot(context, [17, 6], kind === "draws" ? 2 : 3);
  } else {
    if (kind === "prior") context.setLineDash([1, 3]);
    if (kind === "guide") context.setLineDash([5, 4]);
    context.beginPath();
    context.ellipse(13, 7, 11, 5, 0, 0, 2 * Math.PI);
    if (kind === "posterior") { context.globalAlpha = 0.35; context.fill(); context.globalAlpha = 1; }
    context.stroke();
  }
  return canvas;
}

function showLabels() {
  if (!start.labels) return;
  const found = [...new Set(start.labels)].sort((a, b) => a - b);
  byId("labels").replaceChildren(...found.map((label) => {
    const mark = element("canvas", { width: 10, height: 10 }), context = mark.getContext("2d");
    context.fillStyle = labelColour(label);
    dot(context, [5, 5], 5);
    const button = element("button", { type: "button" }, mark, label < 0 ? "none" : String(label));
    button.setAttribute("aria-pressed", String(plane.only === label));
    button.addEventListener("click", () => {
      plane.only = plane.only === label ? null : label;
      showLabels();
      drawPlane();
    });
    return button;
  }));
}

const traversing = new Latest(async () => {
  if (byId("traverse-card").hidden) return;
  const axis = Number(byId("traverse-axis").value), frame = frameNow(), steps = isImage() ? 9 : 7;
  const places = Array.from({ length: steps }, (_, s) => {
    const w = [...plane.w];
    w[axis] = frame.low[axis] + s / (steps - 1) * (frame.high[axis] - frame.low[axis]);
    return w;
  });
  const answer = await ask("decode", { ...given(false), frame: plane.frame, places });
  const found = rows(unpack(answer.x)), values = places.map((w) => number(w[axis]));
  if (isImage()) byId("traversal").replaceChildren(...found.map((x, s) => tile(x, values[s])));
  else byId("traversal").replaceChildren(traversalTable(frame.names[axis], values, found));
});

function traversalTable(name, values, found) {
  const head = element("tr", {}, element("th", { scope: "col" }, name), ...values.map((text) => element("th", { scope: "col" }, text)));
  const lines = columns().map((column, i) => element("tr", {}, element("th", { scope: "row" }, ...breakable(column.name)),
    ...found.map((x) => element("td", {}, levelText(column, x[i])))));
  return element("div", { className: "wide" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines)));
}

function tile(values, caption) {
  return element("figure", {}, thumbnail(values, 52), element("figcaption", {}, caption));
}

function showSliders() {
  const frame = frameNow(), holder = byId("sliders");
  const count = frame.names.filter((name) => name).length;
  if (holder.dataset.frame !== plane.frame) {
    holder.dataset.frame = plane.frame;
    holder.replaceChildren(...Array.from({ length: count }, (_, i) => slider(frame, i)));
  }
  [...holder.children].forEach((row, i) => {
    const input = row.querySelector("input");
    if (document.activeElement !== input || Number(input.value) !== plane.w[i]) input.value = plane.w[i];
    row.querySelector("output").textContent = number(plane.w[i]);
  });
}

function slider(frame, i) {
  const step = (frame.high[i] - frame.low[i]) / 200;
  const input = element("input", { type: "range", min: frame.low[i], max: frame.high[i], step, value: 0 });
  input.setAttribute("aria-label", frame.names[i]);
  input.addEventListener("input", () => {
    const w = [...plane.w];
    w[i] = Number(input.value);
    movePoint(w);
  });
  const carried = element("span", {}, `${number(frame.carried[i], 3)} ${frame.unit.replace("KL, nats", "nats")}`);
  carried.title = frame.unit === "variance" ? "variance of the mean code over the data" : "KL of q from p(z), mean over the data";
  return element("label", { className: "slider" }, frame.names[i], input, element("output"), carried);
}
