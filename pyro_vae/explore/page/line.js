// A code of one dimension in place of the plane: densities over it, and below them the codes of the data.

const isLine = () => !frameNow().names[1];
const TICKS = 34; // pixels for the codes below the densities
const BINS = 50;

function normalOver(normal) {
  const [mean, variance] = [normal.mean[0], normal.covariance[0][0]];
  return (v) => Math.exp(-((v - mean) ** 2) / variance / 2) / Math.sqrt(2 * Math.PI * variance);
}

// A histogram of draws, weighed or not, as a density.
function histogram(places, shares, [low, high]) {
  const found = new Float64Array(BINS), width = (high - low) / BINS;
  places.forEach((place, k) => {
    const bin = Math.floor((place[0] - low) / width);
    if (bin >= 0 && bin < BINS) found[bin] += (shares ? shares[k] : 1 / places.length) / width;
  });
  return (v) => found[Math.min(BINS - 1, Math.max(0, Math.floor((v - low) / width)))];
}

// What is drawn: a density, its colour, its dashes, and whether it is filled.
function densities(limits) {
  const { prior } = plane.answer, own = datum.answer && !datum.stale ? datum.answer.guide : null, found = [];
  const over = (some) => some.kind === "normal" ? normalOver(some) : histogram(rows(unpack(some.draws)), null, limits);
  const mixture = plane.answer.components, whole = mixture && mixture.largest.length === mixture.count;
  const parts = whole ? mixture.largest.map((component) => [component.weight, normalOver(component)]) : null;
  found.push([whole ? (v) => parts.reduce((sum, [weight, density]) => sum + weight * density(v), 0) : over(prior), "faint", [1, 3], false]);
  if (plane.draws) found.push([histogram(rows(unpack(plane.draws.draws)), unpack(plane.draws.shares).data, limits), "gap", [], true]);
  if (own) found.push([over(own), "ink", [5, 4], false]);
  if (plane.refined) found.push([over(plane.refined.guide), "ink", [], false]);
  return found;
}

function drawLine(context, map, width, height) {
  const [low, high] = map.limits, floor = height - EDGE.bottom - TICKS, across = ticks(low, high), steps = width - EDGE.left - EDGE.right;
  context.lineWidth = 1;
  context.strokeStyle = colour("rule");
  context.fillStyle = colour("faint");
  context.textAlign = "center";
  for (const value of across.values) {
    const [x] = map.to([value, 0]);
    line(context, [x, EDGE.top], [x, height - EDGE.bottom]);
    context.fillText(number(value, across.digits), x, height - EDGE.bottom + 15);
  }
  line(context, [EDGE.left, floor], [width - EDGE.right, floor]);
  context.fillStyle = colour("ink");
  context.textAlign = "right";
  context.fillText(frameNow().names[0], width - EDGE.right, height - 4);
  context.save();
  context.translate(11, EDGE.top);
  context.rotate(-Math.PI / 2);
  context.fillText("density", 0, 0);
  context.restore();
  const at = (step) => low + step / steps * (high - low), every = Array.from({ length: steps + 1 }, (_, step) => step);
  const drawn = densities([low, high]), most = Math.max(...drawn.flatMap(([density]) => every.map((step) => density(at(step)))));
  for (const [density, name, dashes, filled] of drawn) {
    const to = (step) => [EDGE.left + step, floor - density(at(step)) / most * (floor - EDGE.top - 8)];
    context.strokeStyle = context.fillStyle = colour(name);
    context.lineWidth = 2;
    context.setLineDash(dashes);
    context.beginPath();
    context.moveTo(EDGE.left, floor);
    for (const step of every) context.lineTo(...to(step));
    if (filled) { context.lineTo(EDGE.left + steps, floor); context.globalAlpha = 0.45; context.fill(); context.globalAlpha = 1; }
    else context.stroke();
  }
  context.setLineDash([]);
  context.lineWidth = 1;
  plane.codes.forEach((code, i) => {
    const label = start.labels ? start.labels[i] : -1, [x] = map.to(code);
    context.globalAlpha = plane.only === null || plane.only === label ? 0.7 : 0.08;
    context.strokeStyle = labelColour(label);
    line(context, [x, floor + 5], [x, height - EDGE.bottom - 3]);
  });
  context.globalAlpha = 1;
  context.lineWidth = 1.5;
  context.strokeStyle = colour("ink");
  const [x] = map.to([plane.w[plane.axes[0]], 0]);
  line(context, [x, floor - 12], [x, height - EDGE.bottom]);
}
