// The answers of an exported page, by running the networks here: the same questions as the server's, in double precision.

const HALF_LOG_2_PI = 0.5 * Math.log(2 * Math.PI);
const sigmoid = (v) => 1 / (1 + Math.exp(-v));
const softplus = (v) => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)));
const ELEMENTWISE = {
  Tanh: Math.tanh, ReLU: (v) => Math.max(v, 0), Sigmoid: sigmoid, SiLU: (v) => v * sigmoid(v), Softplus: softplus,
  ELU: (v) => v > 0 ? v : Math.expm1(v), LeakyReLU: (v) => v > 0 ? v : 0.01 * v,
};

function compiled(layers) {
  return layers.map((layer) => {
    const weight = layer.weight && unpack(layer.weight), bias = layer.bias && unpack(layer.bias).data;
    return { ...layer, weight: weight && weight.data, shape: weight && weight.shape, bias };
  });
}

function forward(layers, input) {
  let x = Float64Array.from(input);
  for (const layer of layers) {
    if (layer.kind === "linear") x = product(layer, x);
    else if (layer.kind === "Gate") {
      const half = x.length / 2;
      x = Float64Array.from({ length: half }, (_, i) => x[i] * sigmoid(x[half + i]));
    } else if (layer.kind === "norm") x = normalised(layer, x);
    else if (layer.kind === "scale") x = x.map((v, i) => v * layer.weight[i] + layer.bias[i]);
    else x = x.map(ELEMENTWISE[layer.kind]);
  }
  return x;
}

function product({ weight, bias, shape: [outputs, inputs] }, x) {
  const out = new Float64Array(outputs);
  for (let o = 0; o < outputs; o++) {
    let sum = bias ? bias[o] : 0;
    for (let i = 0, at = o * inputs; i < inputs; i++, at++) sum += weight[at] * x[i];
    out[o] = sum;
  }
  return out;
}

function normalised({ weight, bias, eps }, x) {
  const mean = x.reduce((a, b) => a + b, 0) / x.length;
  const variance = x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length;
  return x.map((v, i) => (v - mean) / Math.sqrt(variance + eps) * weight[i] + bias[i]);
}

const tame = (v, highest) => Math.min(v, highest) + Math.log1p(Math.max(v - highest, 0));
function tameScale(v) {
  const inside = Math.min(10, Math.max(-30, v));
  return inside + Math.sign(v - inside) * Math.log1p(Math.abs(v - inside));
}

class Offline {
  constructor(model) {
    this.model = model;
    this.encoder = compiled(model.encoder);
    this.decoder = compiled(model.decoder);
    this.x = rows(unpack(model.x));
    this.scale = model.likelihood.scale && unpack(model.likelihood.scale).data;
  }

  // p(x|z) at a code: the mean of each element, and log p(x|z) of an x.
  at(z) {
    const out = forward(this.decoder, z), { name, bounded, min_scale } = this.model.likelihood, size = this.x[0].length;
    if (name === "Bernoulli") {
      return {
        mean: () => out.map(sigmoid),
        log: (x) => { let sum = 0; for (let i = 0; i < size; i++) sum += x[i] * out[i] - softplus(out[i]); return sum; },
      };
    }
    const location = out.subarray(0, size).map((v) => bounded ? sigmoid(v) : v);
    const scale = (i) => this.scale ? this.scale[i] : Math.exp(tame(out[size + i], 30)) + min_scale;
    return {
      mean: () => location,
      log: (x) => {
        let sum = 0;
        for (let i = 0; i < size; i++) {
          const s = scale(i);
          sum -= ((x[i] - location[i]) / s) ** 2 / 2 + Math.log(s) + HALF_LOG_2_PI;
        }
        return sum;
      },
    };
  }

  logJoint(x, z) {
    return this.at(z).log(x) - z.reduce((sum, v) => sum + v * v / 2 + HALF_LOG_2_PI, 0);
  }

  // q(z|x): its mean, and the lower triangle L of its covariance L L'.
  encode(x) {
    const out = forward(this.encoder, x), n = this.model.latent;
    const tril = Array.from({ length: n }, () => new Float64Array(n));
    let at = 2 * n;
    for (let i = 0; i < n; i++) {
      if (this.model.guide === "FullNormal") for (let j = 0; j < i; j++) tril[i][j] = out[at++];
      tril[i][i] = Math.exp(tameScale(out[n + i]));
    }
    return { mean: [...out.subarray(0, n)], tril };
  }

  frame(name) { return this.model.frames[name]; }

  codeOf(name, w) {
    const { centre, axes } = this.frame(name);
    return centre.map((c, i) => c + axes[i].reduce((sum, a, m) => sum + a * w[m], 0));
  }

  placeOf(name, z) {
    const { centre, axes } = this.frame(name);
    return axes[0].map((_, m) => z.reduce((sum, v, i) => sum + (v - centre[i]) * axes[i][m], 0));
  }

  plane({ frame, axes }) {
    const places = rows(unpack(start.places[frame])), chosen = new Float32Array(2 * places.length);
    places.forEach((place, n) => axes.forEach((axis, i) => { chosen[2 * n + i] = place[axis]; }));
    const { low, high } = start.frames[frame], zero = this.placeOf(frame, this.frame(frame).centre.map(() => 0));
    const unit = (m) => this.frame(frame).axes.reduce((sum, row) => sum + row[m] ** 2, 0);
    const prior = { kind: "normal", mean: axes.map((a) => zero[a]), covariance: [[unit(axes[0]), 0], [0, unit(axes[1])]] };
    return { codes: array([places.length, 2], chosen), prior, low: axes.map((a) => low[a]), high: axes.map((a) => high[a]) };
  }

  decode({ frame, places }) {
    const means = places.map((w) => this.at(this.codeOf(frame, w)).mean());
    return { x: array([places.length, ...start.view.event], Float32Array.from(means.flatMap((m) => [...m]))) };
  }

  datum({ index, x, frame, axes }) {
    const values = x || this.x[index], q = this.encode(values);
    const posterior = this.model.latent === 2 ? this.grid(values, q) : null;
    return {
      x: array(start.view.event, Float32Array.from(values)), mask: null, place: this.placeOf(frame, q.mean),
      guide: this.guide(q, frame, axes), posterior, numbers: this.numbers(values, q, posterior),
      reconstruction: { x: array([1, ...start.view.event], Float32Array.from(this.at(q.mean).mean())) },
    };
  }

  guide({ mean, tril }, frame, axes) {
    const place = this.placeOf(frame, mean), directions = this.frame(frame).axes;
    const rooted = axes.map((axis) => tril[0].map((_, k) => directions.reduce((sum, row, i) => sum + row[axis] * tril[i][k], 0)));
    const covariance = rooted.map((a) => rooted.map((b) => a.reduce((sum, v, k) => sum + v * b[k], 0)));
    return { kind: "normal", mean: axes.map((a) => place[a]), covariance };
  }

  // K draws of the guide and their log-weights.
  weigh(x, { mean, tril }, count) {
    const noise = normals(), n = mean.length;
    return Array.from({ length: count }, () => {
      const e = mean.map(() => noise());
      const z = mean.map((m, i) => m + tril[i].reduce((sum, v, k) => sum + v * e[k], 0));
      const logGuide = e.reduce((sum, v, i) => sum - v * v / 2 - HALF_LOG_2_PI - Math.log(tril[i][i]), 0);
      const logLikelihood = this.at(z).log(x);
      const logPrior = z.reduce((sum, v) => sum - v * v / 2, -n * HALF_LOG_2_PI);
      return { z, logLikelihood, log: logLikelihood + logPrior - logGuide };
    });
  }

  numbers(x, q, posterior) {
    const count = start.num_particles, found = this.weigh(x, q, count), logs = found.map((f) => f.log);
    const importance = logSum(logs) - Math.log(count), shares = logs.map((v) => Math.exp(v - importance) / count);
    const ess = 1 / shares.reduce((sum, s) => sum + s * s, 0), elbo = average(logs);
    const importance_error = Math.sqrt(Math.max(0, 1 / ess - 1 / count) * count / (count - 1));
    const [log_p, log_p_error] = posterior ? [posterior.log_p, posterior.error] : [importance, importance_error];
    const reconstruction = average(found.map((f) => f.logLikelihood)), elbo_error = errorOf(logs);
    const gap_error = posterior ? Math.hypot(elbo_error, log_p_error) : errorOf(logs.map((v, k) => shares[k] * count - v));
    return {
      elbo, elbo_error, log_p, log_p_error, importance, importance_error, gap: log_p - elbo, gap_error, reconstruction,
      method: posterior ? "quadrature" : "importance", kl: reconstruction - elbo, pareto_k: null, threshold: null,
      flagged: false, ess, num_particles: count,
    };
  }

  draws({ index, x, frame, axes }) {
    const values = x || this.x[index], found = this.weigh(values, this.encode(values), start.num_particles);
    const total = logSum(found.map((f) => f.log)), places = found.map((f) => this.placeOf(frame, f.z));
    return {
      draws: array([found.length, 2], Float32Array.from(places.flatMap((place) => axes.map((a) => place[a])))),
      shares: array([found.length], Float32Array.from(found.map((f) => Math.exp(f.log - total)))),
    };
  }

  // The true posterior on a grid around its mass, as explore/grid.py finds it.
  grid(x, { mean, tril }) {
    let box = [0, 1].map((i) => {
      const reach = 3 * Math.hypot(...tril[i]);
      const [low, high] = [Math.min(-3, mean[i] - reach), Math.max(3, mean[i] + reach)], margin = (high - low) / 2;
      return [low - margin, high + margin];
    });
    const joint = (side) => {
      const at = (i, k) => box[i][0] + k / (side - 1) * (box[i][1] - box[i][0]);
      return Float64Array.from({ length: side * side }, (_, k) => this.logJoint(x, [at(0, k % side), at(1, Math.floor(k / side))]));
    };
    let found = false;
    for (let search = 0; search < 25 && !found; search++) [box, found] = closer(box, joint(COARSE));
    const values = joint(FINE), area = box.reduce((sum, [low, high]) => sum + Math.log((high - low) / (FINE - 1)), 0);
    const log_p = logSum(values) + area, half = (k) => (k % FINE) % 2 === 0 && Math.floor(k / FINE) % 2 === 0;
    const error = Math.abs(log_p - (logSum(values.filter((_, k) => half(k))) + area + 2 * Math.log(2)));
    const log_density = array([FINE, FINE], Float32Array.from(values, (v) => v - log_p));
    return { low: box.map((b) => b[0]), high: box.map((b) => b[1]), log_density, found, log_p, error };
  }
}

const COARSE = 33, FINE = 101, CUT = 25;

function closer(box, joint) {
  const top = joint.reduce((a, b) => Math.max(a, b), -Infinity), seen = [[Infinity, -1], [Infinity, -1]];
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

const array = (shape, data) => ({ shape, data });
const average = (values) => values.reduce((a, b) => a + b, 0) / values.length;

function logSum(values) {
  const top = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return top + Math.log(values.reduce((sum, v) => sum + Math.exp(v - top), 0));
}

function errorOf(values) {
  const mean = average(values);
  return Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1) / values.length);
}

// Standard normal numbers, the same at every call: Box and Muller's of the generator mulberry32.
function normals() {
  let state = 1;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}
