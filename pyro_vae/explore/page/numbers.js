// ELBO, log p(x) and their gap, as numbers and as an area; the refined guide and weighed draws.

function rowsOfNumbers(numbers) {
  const by = numbers.method === "quadrature" ? "by quadrature on the grid" : `by importance sampling, K = ${numbers.num_particles}`;
  const k = `above ${number(numbers.threshold)} the importance weights are not to be trusted`;
  return [
    ["log p(x), nats", `how probable the model holds this datum, ${by}`, (n) => withError(n.log_p, n.log_p_error)],
    ["ELBO, nats", "the lower bound that training raises: E[log p(x, z) − log q(z|x)] under the guide", (n) => withError(n.elbo, n.elbo_error)],
    ["gap: log p(x) − ELBO, nats", "KL(q(z|x) ‖ p(z|x)): 0 where the guide is the true posterior", (n) => withError(n.gap, n.gap_error)],
    ["reconstruction: E[log p(x|z)], nats", "the first term of the ELBO", (n) => number(n.reconstruction)],
    ["KL(q(z|x) ‖ p(z)), nats", "the second term: how far the guide is from the prior", (n) => number(n.kl)],
    ["log p(x) by importance sampling, nats", `K = ${numbers.num_particles} draws of the guide, weighed`, (n) => withError(n.importance, n.importance_error)],
    ["k-hat", k, (n) => `${tailText(n)}${n.flagged ? " — too high" : ""}`],
    ["effective draws", `of ${numbers.num_particles}: how many equal weights they are worth`, (n) => number(n.ess, 0)],
  ].filter(([name]) => numbers.method === "quadrature" || !name.startsWith("log p(x) by"));
}

// k-hat in words where it is no number: of equal weights, which have no tail, or of too few.
function tailText({ pareto_k, flagged }) {
  if (Number.isFinite(pareto_k)) return number(pareto_k);
  return flagged ? "unknown" : "none (equal weights)";
}

function withError(value, error) {
  const digits = error !== null && error < 0.005 ? 3 : 2;
  if (error !== null && error < 0.0005) return `${number(value, 3)} ± < 0.001`;
  return `${number(value, digits)} ± ${number(error, digits)}`;
}

function showNumbers() {
  const own = datum.answer.numbers, note = byId("numbers-note");
  showClasses();
  byId("numbers").classList.toggle("old", Boolean(datum.answer.pending && !own));
  byId("gap").classList.toggle("old", Boolean(datum.answer.pending && !own));
  if (datum.answer.pending && !own) return;
  byId("refine").hidden = !start.can.refine;
  byId("draws").hidden = !start.can.draws;
  byId("draws").setAttribute("aria-pressed", String(plane.weighed));
  if (!own) {
    note.textContent = "The guide is a point: it has no ELBO and no weights. The true posterior is that of the model.";
    byId("numbers").replaceChildren();
    byId("gap").replaceChildren();
    return;
  }
  const columns = [["guide q(z|x)", own], ...(plane.refined ? [["refined guide", plane.refined.numbers]] : [])];
  const head = element("tr", { role: "row" }, element("td", { role: "cell" }),
    ...columns.map(([name]) => element("th", { scope: "col", role: "columnheader" }, name)));
  const lines = rowsOfNumbers(own).map(([name, words, text]) => element("tr", { role: "row" },
    element("th", { scope: "row", role: "rowheader" }, name, element("small", {}, words)),
    ...columns.map(([, n]) => element("td", { role: "cell", className: name === "k-hat" && n.flagged ? "flag" : "" }, text(n)))));
  byId("numbers").replaceChildren(element("thead", { role: "rowgroup" }, head), element("tbody", { role: "rowgroup" }, ...lines));
  byId("numbers").classList.toggle("two", columns.length > 1);
  note.textContent = noteOn(own);
  showGap(columns);
  say(byId("gap").getAttribute("aria-label"), "numbers");
}

function noteOn(own) {
  if (datum.chosenClass !== null) return "With a class y chosen, these are numbers of log p(x, y). ± is a Monte Carlo standard error.";
  if (own.method === "quadrature") return "± is a Monte Carlo standard error; of quadrature the change if every second point is left out.";
  return "± is a Monte Carlo standard error. A grid is for codes of two dimensions; here weighed draws show the posterior.";
}

function svg(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

// A line of nats: for each guide the area from its ELBO to log p(x).
function showGap(columns) {
  const holder = byId("gap"), width = Math.max(280, holder.clientWidth), height = 58 + 38 * columns.length;
  const log_p = columns[0][1].log_p, least = Math.min(...columns.map(([, n]) => n.elbo));
  const span = Math.max(Math.abs(log_p - least), 0.2), [low, high] = [Math.min(least, log_p) - 0.35 * span, Math.max(least, log_p) + 0.35 * span];
  const x = (value) => 8 + (value - low) / (high - low) * (width - 16);
  const made = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const foot = height - 30, band = 2 * (columns[0][1].log_p_error || 0);
  columns.forEach(([name, n], i) => {
    const top = 36 + 38 * i;
    const area = { x: Math.min(x(n.elbo), x(log_p)), y: top, width: Math.abs(x(log_p) - x(n.elbo)), height: 14 };
    made.append(svg("rect", { ...area, fill: colour("gap"), "fill-opacity": 0.75 }));
    made.append(svg("line", { x1: x(n.elbo), x2: x(n.elbo), y1: top - 3, y2: top + 17, stroke: colour("ink"), "stroke-width": 2 }));
    made.append(svg("text", { x: 8, y: top - 8 }, `${name}: gap ${number(n.gap)} nats`));
    made.append(svg("text", { x: x(n.elbo) - 5, y: top + 11, "text-anchor": "end" }, "ELBO"));
  });
  made.append(svg("rect", { x: x(log_p - band), y: 18, width: Math.max(0, x(log_p + band) - x(log_p - band)), height: foot - 18, fill: colour("accent"), "fill-opacity": 0.18 }));
  made.append(svg("line", { x1: x(log_p), x2: x(log_p), y1: 18, y2: foot, stroke: colour("accent"), "stroke-width": 2 }));
  made.append(svg("text", { x: x(log_p), y: 12, "text-anchor": "middle", class: "strong" }, "log p(x)"));
  made.append(svg("line", { x1: 8, x2: width - 8, y1: foot, y2: foot, stroke: colour("rule") }));
  const scale = ticks(low, high, width < 400 ? 3 : 5);
  for (const value of scale.values) {
    made.append(svg("line", { x1: x(value), x2: x(value), y1: foot, y2: foot + 4, stroke: colour("faint") }));
    made.append(svg("text", { x: x(value), y: foot + 17, "text-anchor": "middle" }, number(value, scale.digits)));
  }
  made.append(svg("text", { x: width - 8, y: height - 1, "text-anchor": "end" }, "nats"));
  holder.replaceChildren(made);
  holder.setAttribute("aria-label", columns.map(([name, n]) => `${name}: ELBO ${number(n.elbo)}, log p(x) ${number(n.log_p)}, gap ${number(n.gap)} nats`).join(". "));
}

function showClasses() {
  const shares = datum.answer.classes;
  byId("classes-box").hidden = !shares;
  if (!shares) return;
  const best = shares.indexOf(Math.max(...shares));
  byId("classes").replaceChildren(...shares.map((share, y) => element("div", { className: y === best ? "level best" : "level" },
    String(y), bar(share), number(share))));
}

// Says what is computed while it takes more than a moment; `job` may tell the share that is done.
async function busy(text, job) {
  const show = (share) => {
    byId("busy-text").textContent = share === null ? `${text} ...` : `${text}: ${number(100 * share, 0)} %`;
    byId("busy-bar").style.width = `${100 * (share || 0)}%`;
  };
  const timer = setTimeout(() => { byId("busy").hidden = false; }, 300);
  show(null);
  try {
    return await job(show);
  } finally {
    clearTimeout(timer);
    byId("busy").hidden = true;
  }
}

const refining = new Latest(async () => {
  const button = byId("refine"), outdated = changedSince();
  button.disabled = true;
  try {
    const found = await busy("Refining the guide", (progress) => ask("refine", { ...given(), ...where() }, { outdated, progress }));
    if (outdated()) return;
    plane.refined = found;
    showNumbers();
    showLegend();
    drawPlane();
  } finally {
    button.disabled = false;
  }
});

async function showDraws(fields, how) {
  plane.draws = await ask("draws", { ...fields, ...where() }, how);
  drawPlane();
}

const drawing = new Latest(async () => {
  plane.weighed = !plane.weighed;
  byId("draws").setAttribute("aria-pressed", String(plane.weighed));
  if (plane.weighed) await showDraws(given(), { outdated: changedSince() }); else plane.draws = null;
  showLegend();
  drawPlane();
});
