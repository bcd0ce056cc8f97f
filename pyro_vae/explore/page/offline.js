// The answers of an exported page, by running the networks here: the same questions as the server's, in double precision.

const SLICE = 12; // milliseconds of computing, after which events of the page come first

// p(x, z) of one datum, in slices between which the page answers its user. It ends by Outdated when nobody waits for it.
class Target {
  constructor(model, x, flip, outdated) {
    Object.assign(this, { model, x, flip, outdated });
    this.rows = sliceOf(model.work);
    this.since = performance.now();
  }

  async breathe() {
    if (performance.now() - this.since < SLICE) return false;
    await nextTurn();
    if (this.outdated()) throw new Outdated();
    this.since = performance.now();
    return true;
  }

  // For codes [count, size] what `compute` makes of some of them at a time, joined.
  async parts(z, compute, progress = () => {}) {
    const size = this.model.latent, found = [];
    for (let from = 0; from < z.length; from += this.rows * size) {
      found.push(compute(z.subarray(from, from + this.rows * size)));
      if (await this.breathe()) progress(from / z.length);
    }
    return found;
  }

  // log p(x|z) and log p(x, z) of codes.
  async evaluate(z, progress) {
    const { decoder, likelihood, prior } = this.model;
    const likelihoods = joined(await this.parts(z, (some) => {
      const out = forward(decoder, some);
      return Float64Array.from({ length: some.length / this.model.latent }, (_, k) => likelihood.log(out, k * likelihood.outputs, this.x, this.flip));
    }, progress));
    const priors = joined(await this.parts(z, (some) => prior.log(some)));
    return { likelihood: likelihoods, joint: plus(likelihoods, priors) };
  }

  // The gradient of log p(x, z) in codes.
  async slopes(z) {
    const { decoder, likelihood, prior } = this.model;
    return joined(await this.parts(z, (some) => {
      const inputs = passed(decoder, some), out = inputs.at(-1), gradient = new Float64Array(out.length);
      for (let from = 0; from < out.length; from += likelihood.outputs) likelihood.slope(out, from, this.x, this.flip, gradient);
      return plus(backward(decoder, inputs, gradient), prior.gradient(some));
    }));
  }
}

// When the events that wait have been dealt with; a timer would wait longer.
function nextTurn() {
  return new Promise((go) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { port1.close(); go(); };
    port2.postMessage(0);
  });
}

// How many codes are decoded between two looks at the clock: a multiple of four, since products take four at a time.
const sliceOf = (work) => 4 * Math.max(1, Math.min(64, Math.floor(4e6 / work)));

function joined(parts) {
  const found = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { found.set(part, at); at += part.length; }
  return found;
}

const array = (shape, data) => ({ shape, data: Float32Array.from(data) });

class Offline {
  constructor(model) {
    this.model = model;
    this.latent = model.latent;
    this.encoder = compiled(model.encoder);
    this.decoder = compiled(model.decoder);
    this.work = work(this.decoder);
    this.prior = new Prior(model.prior);
    this.likelihood = new LIKELIHOODS[model.likelihood.name](model.likelihood);
    this.input = { ...model.input };
    for (const name of ["shift", "unit", "fill"]) if (this.input[name]) this.input[name] = unpack(this.input[name]);
    this.x = rows(unpack(model.x)).map((x) => Array.from(x, (v) => Number.isNaN(v) ? null : v));
    this.dense = model.guide === "FullNormal";
  }

  encode(x) {
    return new NormalGuide(forward(this.encoder, encoderInput(this.input, x)), this.latent, this.dense);
  }

  // The mean of each element at a code.
  mean(z) { return this.likelihood.mean(forward(this.decoder, z)); }

  target(x, flip, outdated) { return new Target(this, x, flip, outdated || (() => false)); }

  frame(name) { return this.model.frames[name]; }

  codeOf(name, w) {
    const { centre, axes } = this.frame(name);
    return Float64Array.from(centre, (c, i) => c + axes[i].reduce((sum, a, m) => sum + a * w[m], 0));
  }

  placeOf(name, z) {
    const { centre, axes } = this.frame(name);
    return axes[0].map((_, m) => centre.reduce((sum, c, i) => sum + (z[i] - c) * axes[i][m], 0));
  }

  // The marginal of a normal, by its mean and the rows of L, on two axes of a frame.
  marginal(frame, axes, mean, tril) {
    const place = this.placeOf(frame, mean), directions = this.frame(frame).axes;
    const rooted = axes.map((axis) => tril[0].map((_, k) => directions.reduce((sum, row, i) => sum + row[axis] * tril[i][k], 0)));
    const covariance = rooted.map((a) => rooted.map((b) => a.reduce((sum, v, k) => sum + v * b[k], 0)));
    return { mean: axes.map((a) => place[a]), covariance };
  }

  plane({ frame, axes }) {
    const places = rows(unpack(start.places[frame])), { low, high } = start.frames[frame];
    const codes = array([places.length, 2], places.flatMap((place) => axes.map((axis) => place[axis])));
    const limits = { low: axes.map((a) => low[a]), high: axes.map((a) => high[a]) };
    return { codes, ...this.priorOn(frame, axes, limits), ...limits };
  }

  priorOn(frame, axes, { low, high }) {
    const { prior } = this, order = [...prior.means.keys()].sort((a, b) => prior.logWeights[b] - prior.logWeights[a]);
    const components = order.slice(0, this.model.most_components).map((k) => ({
      weight: Math.exp(prior.logWeights[k]), place: this.placeOf(frame, prior.means[k]),
      ...this.marginal(frame, axes, prior.means[k], this.triangle(k)),
    }));
    if (order.length === 1) {
      const { mean, covariance } = components[0];
      return { prior: { kind: "normal", mean, covariance }, components: null };
    }
    const all = { count: order.length, largest: components };
    if (this.latent !== 2) {
      const draws = rows(unpack(this.model.prior_draws)).map((z) => this.placeOf(frame, z));
      return { prior: { kind: "draws", draws: array([draws.length, 2], draws.flatMap((place) => axes.map((a) => place[a]))) }, components: all };
    }
    const z = points(low, high, PRIOR_SIDE);
    return { prior: { kind: "grid", log_density: array([PRIOR_SIDE, PRIOR_SIDE], prior.log(z)) }, components: all };
  }

  // L of a component of the prior, row by row.
  triangle(k) {
    const n = this.latent, scale = this.prior.scales[k];
    return Array.from({ length: n }, (_, i) => Float64Array.from({ length: n }, (_, j) => {
      if (this.prior.dense) return scale[i * n + j];
      return i === j ? scale[i] : 0;
    }));
  }

  decode({ frame, places }) {
    const means = places.map((w) => this.mean(this.codeOf(frame, w)));
    return { x: array([places.length, ...start.view.event], joined(means)) };
  }

  values({ index, x }) { return x || this.x[index]; }

  // Guide and reconstruction are told at once, then the numbers, and what needs the grid when it is computed.
  async datum(fields, { outdated, partly, progress }) {
    const { frame, axes } = fields, x = this.values(fields), q = this.encode(x), event = start.view.event;
    const found = {
      x: array(event, x.map((v) => v ?? 0)), mask: x.includes(null) ? array(event, x.map((v) => v === null ? 0 : 1)) : null,
      place: this.placeOf(frame, q.mean), guide: { kind: "normal", ...this.marginal(frame, axes, q.mean, q.tril) },
      reconstruction: { x: array([1, ...event], this.mean(q.mean)) }, posterior: null, numbers: null, classes: null,
      pending: true,
    };
    partly(found);
    const target = this.target(x, 0, outdated), weighed = await this.weigh(target, q);
    if (this.latent !== 2) return { ...found, numbers: weighed.numbers(null), pending: false };
    partly({ ...found, numbers: weighed.numbers(null) });
    const posterior = await this.grid(target, q, progress);
    return { ...found, posterior, numbers: weighed.numbers(posterior), pending: false };
  }

  // Draws of a guide with their weights.
  async weigh(target, q) {
    const count = start.num_particles, { z, log } = q.draws(normals(this.model.seeds.weigh, count * this.latent));
    const { likelihood, joint } = await target.evaluate(z), logWeights = joint.map((v, k) => v - log[k]);
    const most = logWeights.reduce((best, v, k) => v > logWeights[best] ? k : best, 0);
    const rounding = 2 ** -23 * (Math.abs(joint[most]) + Math.abs(log[most])); // of torch's single precision
    const found = weighedBy(logWeights, rounding);
    return { z, logWeights, ...found, numbers: (posterior) => this.numbers(found, logWeights, likelihood, posterior) };
  }

  numbers(found, logWeights, likelihood, posterior) {
    const { shares, ess, pareto_k, log_p: importance, log_p_error: importance_error } = found, count = logWeights.length;
    const by_grid = posterior !== null && posterior.found, threshold = errorBarBelow(count);
    const [log_p, log_p_error] = by_grid ? [posterior.log_p, posterior.error] : [importance, importance_error];
    const elbo = average(logWeights), elbo_error = errorOf(logWeights), reconstruction = average(likelihood);
    const gap_error = by_grid ? Math.hypot(elbo_error, log_p_error) : errorOf(logWeights.map((v, k) => shares[k] * count - v));
    return {
      elbo, elbo_error, log_p, log_p_error, importance, importance_error, gap: log_p - elbo, gap_error, reconstruction,
      method: by_grid ? "quadrature" : "importance", kl: reconstruction - elbo, pareto_k, threshold,
      flagged: !(pareto_k <= threshold), ess, num_particles: count,
    };
  }

  async refine(fields, { outdated, progress }) {
    const { frame, axes } = fields, target = this.target(this.values(fields), 0, outdated);
    const q = await this.refined(target, progress), posterior = this.latent === 2 ? await this.grid(target, q) : null;
    return {
      place: this.placeOf(frame, q.mean), guide: { kind: "normal", ...this.marginal(frame, axes, q.mean, q.tril) },
      numbers: (await this.weigh(target, q)).numbers(posterior),
    };
  }

  async refined(target, progress) {
    const how = { ...this.model.search, seeds: this.model.seeds, size: this.latent, dense: this.dense };
    const climb = new Climb(target, this.encode(target.x).params, how);
    return climb.guide(await climb.run(progress));
  }

  async draws(fields, { outdated }) {
    const { frame, axes } = fields, x = this.values(fields), { z, shares, ess } = await this.weigh(this.target(x, 0, outdated), this.encode(x));
    const places = Array.from(shares, (_, k) => this.placeOf(frame, z.subarray(k * this.latent, (k + 1) * this.latent)));
    return { draws: array([shares.length, 2], places.flatMap((place) => axes.map((a) => place[a]))), shares: array([shares.length], shares), ess };
  }

  // Draws of x given what is observed of it: of the guide's weighed draws some are taken in proportion to their smoothed
  // weights, and x is drawn for each. The mean is over all of them.
  async restore(fields, { outdated, progress }) {
    const { flip, better } = fields, x = this.values(fields), target = this.target(x, flip, outdated);
    const q = better ? await this.refined(target, progress) : this.encode(x);
    const { z, smoothed, ess, pareto_k } = await this.weigh(target, q), { likelihood } = this, size = likelihood.size;
    const outOf = (some) => forward(this.decoder, some), code = (k) => z.slice(k * this.latent, (k + 1) * this.latent);
    const total = logSum(smoothed), mean = new Float64Array(size), second = new Float64Array(size);
    let at = 0;
    await target.parts(z, (some) => {
      const out = outOf(some);
      for (let k = 0; k < some.length / this.latent; k++, at++) {
        const share = Math.exp(smoothed[at] - total), from = k * likelihood.outputs;
        const [one, variance] = [likelihood.restored(out, from, x, flip), likelihood.variance(out, from, x, flip)];
        for (let i = 0; i < size; i++) { mean[i] += share * one[i]; second[i] += share * (one[i] ** 2 + variance[i]); }
      }
    });
    const uniform = uniforms(this.model.seeds.restore), chosen = resampled(smoothed, this.model.num_restored, uniform);
    const draws = chosen.map((k) => likelihood.draw(outOf(code(k)), 0, x, flip, uniform)), event = start.view.event;
    return {
      draws: array([draws.length, ...event], joined(draws)), mean: array(event, mean),
      sd: array(event, second.map((v, i) => Math.sqrt(Math.max(0, v - mean[i] ** 2)))), ess, pareto_k,
      flagged: untrustworthy(pareto_k, smoothed.length, reliableBelow(smoothed.length)),
      num_particles: smoothed.length, method: better ? "refined" : "encoder",
    };
  }

  // The true posterior on a grid around its mass, as explore/grid.py finds it.
  async grid(target, q, progress = () => {}) {
    const { low: lowest, high: highest, draws } = this.model.grid, { z } = q.draws(ofFirst(this.model.seeds.guide, draws, this.model.search.tile, 2));
    let box = [0, 1].map((i) => {
      const own = z.filter((_, k) => k % 2 === i);
      const low = own.reduce((a, b) => Math.min(a, b), lowest[i]), high = own.reduce((a, b) => Math.max(a, b), highest[i]);
      const margin = Math.max(high - low, 1e-6) / 2;
      return [low - margin, high + margin];
    });
    const joint = async (side, told) => (await target.evaluate(points(box.map((b) => b[0]), box.map((b) => b[1]), side), told)).joint;
    let found = false;
    for (let search = 0; search < 25 && !found; search++) [box, found] = closer(box, await joint(COARSE));
    let side, values, sum;
    for (side of SIDES) {
      values = await joint(side, progress);
      sum = quadrature(values, side, box);
      if (sum.error < SETTLED) break;
    }
    const log_density = array([side, side], values.map((v) => v - sum.log_p));
    return { low: box.map((b) => b[0]), high: box.map((b) => b[1]), log_density, found, ...sum };
  }
}

const COARSE = 33, CUT = 25, PRIOR_SIDE = 81;
const SIDES = [51, 101]; // the finer one, the server's, where the other is not enough
const SETTLED = 1e-7; // nats; of a smooth density the error falls faster than by any power of the step, so no more is left

// log p(x) by the sum over a grid, and its change if every second point is left out.
function quadrature(values, side, box) {
  const area = box.reduce((sum, [low, high]) => sum + Math.log((high - low) / (side - 1)), 0), log_p = logSum(values) + area;
  const half = values.filter((_, k) => (k % side) % 2 === 0 && Math.floor(k / side) % 2 === 0);
  return { log_p, error: Math.abs(log_p - (logSum(half) + area + 2 * Math.log(2))) };
}

// A grid of codes of two dimensions, rows along the second, one after the other.
function points(low, high, side) {
  const found = new Float64Array(2 * side * side), at = (i, k) => low[i] + k / (side - 1) * (high[i] - low[i]);
  for (let k = 0; k < side * side; k++) [found[2 * k], found[2 * k + 1]] = [at(0, k % side), at(1, Math.floor(k / side))];
  return found;
}

// The box around the points of a coarse grid that are within CUT of the highest, wider where they touch its edge.
function closer(box, joint) {
  const top = joint.reduce((a, b) => Math.max(a, b), -Infinity), seen = [[Infinity, -1], [Infinity, -1]];
  if (!Number.isFinite(top)) throw new Error("log p(x, z) has no finite maximum: look at the decoder's outputs");
  joint.forEach((value, k) => {
    if (value <= top - CUT) return;
    [k % COARSE, Math.floor(k / COARSE)].forEach((at, i) => { seen[i] = [Math.min(seen[i][0], at), Math.max(seen[i][1], at)]; });
  });
  let inside = true;
  const made = box.map(([low, high], i) => {
    const step = (high - low) / (COARSE - 1), [first, last] = seen[i];
    if (first === 0 || last === COARSE - 1) inside = false;
    return [first === 0 ? low - (high - low) / 2 : low + (first - 1) * step,
      last === COARSE - 1 ? high + (high - low) / 2 : low + (last + 1) * step];
  });
  return [made, inside && made.every(([low, high], i) => high - low > (box[i][1] - box[i][0]) / 2)];
}
