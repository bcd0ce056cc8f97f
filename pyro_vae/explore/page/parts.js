// The parts of a model: prior, likelihood and guide, of several codes at once, with gradients in the codes.

const HALF_LOG_2_PI = 0.5 * Math.log(2 * Math.PI);
const tame = (v, highest) => Math.min(v, highest) + Math.log1p(Math.max(v - highest, 0));
const withinScales = (v) => Math.min(10, Math.max(-30, v));

function tameScale(v) {
  const inside = withinScales(v);
  return inside + Math.sign(v - inside) * Math.log1p(Math.abs(v - inside));
}

const tameScaleSlope = (v) => 1 / (1 + Math.abs(v - withinScales(v)));

function logSum(values) {
  const top = values.reduce((a, b) => Math.max(a, b), -Infinity);
  if (top === -Infinity) return top;
  return top + Math.log(values.reduce((sum, v) => sum + Math.exp(v - top), 0));
}

// A mixture of normals, of one or more: log p(z), and its gradient.
class Prior {
  constructor({ log_weights, means, scales }) {
    this.logWeights = log_weights;
    this.means = rows(unpack(means));
    this.size = this.means[0].length;
    this.scales = rows(unpack(scales)); // of each, the standard deviations, or the rows of a lower triangle
    this.dense = this.scales[0].length > this.size;
    this.constants = this.scales.map((scale, k) => this.logWeights[k] - this.size * HALF_LOG_2_PI
      - this.means[k].reduce((sum, _, i) => sum + Math.log(scale[this.dense ? i * this.size + i : i]), 0));
  }

  // L^-1 (z - m) of a component, for a code at a position of z.
  whitened(k, z, from, found = new Float64Array(this.size)) {
    const n = this.size, scale = this.scales[k], mean = this.means[k];
    for (let i = 0; i < n; i++) {
      let left = z[from + i] - mean[i];
      if (this.dense) for (let j = 0; j < i; j++) left -= scale[i * n + j] * found[j];
      found[i] = left / scale[this.dense ? i * n + i : i];
    }
    return found;
  }

  // L^-T e: what a unit of whitened noise is worth in z.
  coloured(k, e) {
    const n = this.size, scale = this.scales[k], found = new Float64Array(n);
    for (let i = n - 1; i >= 0; i--) {
      let left = e[i];
      if (this.dense) for (let j = i + 1; j < n; j++) left -= scale[j * n + i] * found[j];
      found[i] = left / scale[this.dense ? i * n + i : i];
    }
    return found;
  }

  // log p(k, z) of a code at a position of z, for each component.
  joint(z, from, found = new Float64Array(this.means.length), e = new Float64Array(this.size)) {
    for (let k = 0; k < found.length; k++) {
      this.whitened(k, z, from, e);
      let sum = this.constants[k];
      for (let i = 0; i < e.length; i++) sum -= e[i] * e[i] / 2;
      found[k] = sum;
    }
    return found;
  }

  log(z) {
    const joint = new Float64Array(this.means.length), e = new Float64Array(this.size);
    return Float64Array.from({ length: z.length / this.size }, (_, row) => logSum(this.joint(z, row * this.size, joint, e)));
  }

  gradient(z) {
    const found = new Float64Array(z.length);
    for (let from = 0; from < z.length; from += this.size) {
      const joint = this.joint(z, from), total = logSum(joint);
      joint.forEach((value, k) => {
        const share = Math.exp(value - total);
        if (share === 0) return;
        this.coloured(k, this.whitened(k, z, from)).forEach((v, i) => { found[from + i] -= share * v; });
      });
    }
    return found;
  }
}

// p(x|z) of elements from a decoder's output; where an element of x is null, it is not observed and counts 0. With
// `flip`, x is what was seen of binary elements, each flipped with that probability.
const LIKELIHOODS = {
  Bernoulli: class {
    constructor({ size }) { this.size = this.outputs = size; }

    mean(out) { return out.map(sigmoid); }

    log(out, from, x, flip) {
      let sum = 0;
      for (let i = 0; i < this.size; i++) {
        if (x[i] === null) continue;
        const l = out[from + i];
        if (!flip) sum += x[i] * l - softplus(l);
        else sum += Math.log(this.seen(sigmoid(l), x[i], flip));
      }
      return sum;
    }

    slope(out, from, x, flip, to) {
      for (let i = 0; i < this.size; i++) {
        const share = sigmoid(out[from + i]);
        if (x[i] === null) to[from + i] = 0;
        else if (!flip) to[from + i] = x[i] - share;
        else to[from + i] = (2 * x[i] - 1) * (1 - 2 * flip) * share * (1 - share) / this.seen(share, x[i], flip);
      }
    }

    // The probability that 0 or 1 is seen, where 1 has a given one.
    seen(share, value, flip) {
      const one = share * (1 - flip) + (1 - share) * flip;
      return value ? one : 1 - one;
    }

    // E[x|z, what was seen].
    restored(out, from, x, flip) {
      return Float64Array.from({ length: this.size }, (_, i) => {
        const share = sigmoid(out[from + i]);
        if (x[i] === null) return share;
        return flip ? share * (x[i] ? 1 - flip : flip) / this.seen(share, x[i], flip) : x[i];
      });
    }

    variance(out, from, x, flip) { return this.restored(out, from, x, flip).map((share) => share * (1 - share)); }

    draw(out, from, x, flip, uniform) { return this.restored(out, from, x, flip).map((share) => uniform() < share ? 1 : 0); }
  },

  Normal: class {
    constructor({ size, bounded, min_scale, scale, shift, unit }) {
      Object.assign(this, { size, bounded, least: min_scale, fixed: scale && unpack(scale).data });
      this.outputs = scale ? size : 2 * size;
      this.shift = shift ? unpack(shift).data : new Float32Array(size); // x is standardised: (x - shift) / unit
      this.unit = unit ? unpack(unit).data : new Float32Array(size).fill(1);
    }

    location(out, from, i) {
      const v = out[from + i];
      return this.shift[i] + this.unit[i] * (this.bounded ? sigmoid(v) : v);
    }

    scale(out, from, i) {
      return this.unit[i] * (this.fixed ? this.fixed[i] : Math.exp(tame(out[from + this.size + i], 30)) + this.least);
    }

    mean(out) {
      return Float64Array.from({ length: out.length / this.outputs * this.size }, (_, k) =>
        this.location(out, Math.floor(k / this.size) * this.outputs, k % this.size));
    }

    log(out, from, x) {
      let sum = 0;
      for (let i = 0; i < this.size; i++) {
        if (x[i] === null) continue;
        const s = this.scale(out, from, i);
        sum -= ((x[i] - this.location(out, from, i)) / s) ** 2 / 2 + Math.log(s) + HALF_LOG_2_PI;
      }
      return sum;
    }

    slope(out, from, x, flip, to) {
      to.fill(0, from, from + this.outputs);
      for (let i = 0; i < this.size; i++) {
        if (x[i] === null) continue;
        const s = this.scale(out, from, i), distance = (x[i] - this.location(out, from, i)) / s;
        const v = out[from + i], slope = this.bounded ? sigmoid(v) * (1 - sigmoid(v)) : 1;
        to[from + i] = distance / s * this.unit[i] * slope;
        if (this.fixed) continue;
        const given = out[from + this.size + i], grows = Math.exp(tame(given, 30)) / (1 + Math.max(given - 30, 0));
        to[from + this.size + i] = (distance * distance - 1) / s * this.unit[i] * grows;
      }
    }

    restored(out, from, x) {
      return Float64Array.from({ length: this.size }, (_, i) => x[i] === null ? this.location(out, from, i) : x[i]);
    }

    variance(out, from, x) {
      return Float64Array.from({ length: this.size }, (_, i) => x[i] === null ? this.scale(out, from, i) ** 2 : 0);
    }

    draw(out, from, x, flip, uniform) {
      return this.restored(out, from, x).map((mean, i) => {
        if (x[i] !== null) return mean;
        return mean + this.scale(out, from, i) * Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
      });
    }
  },
};

// What an encoder gets of x.
function encoderInput({ placeholder, shift, unit, gaps, fill }, x) {
  const given = Float64Array.from(x, (v, i) => {
    if (v === null) return gaps === "learned" ? fill.data[i] : placeholder;
    return shift ? (v - shift.data[i]) / unit.data[i] : v;
  });
  return gaps === "mask" ? Float64Array.from([...given, ...x.map((v) => v === null ? 0 : 1)]) : given;
}

// A normal guide by its parameters: mean, and the lower triangle L of its covariance L L'.
class NormalGuide {
  constructor(params, size, dense) {
    Object.assign(this, { params, size, dense, mean: params.slice(0, size) });
    this.tril = Array.from({ length: size }, () => new Float64Array(size));
    let at = 2 * size;
    for (let i = 0; i < size; i++) {
      if (dense) for (let j = 0; j < i; j++) this.tril[i][j] = params[at++];
      this.tril[i][i] = Math.exp(tameScale(params[size + i]));
    }
  }

  // Draws of noise [draws, size] and their log q.
  draws(noise) {
    const n = this.size, z = new Float64Array(noise.length), log = new Float64Array(noise.length / n);
    const constant = this.tril.reduce((sum, row, i) => sum - Math.log(row[i]) - HALF_LOG_2_PI, 0);
    for (let k = 0; k < log.length; k++) {
      log[k] = constant;
      for (let i = 0; i < n; i++) {
        let value = this.mean[i];
        for (let j = this.dense ? 0 : i; j <= i; j++) value += this.tril[i][j] * noise[k * n + j];
        z[k * n + i] = value;
        log[k] -= noise[k * n + i] ** 2 / 2;
      }
    }
    return { z, log };
  }

  // The gradient in the parameters of the mean of log p(x, z) - log q(z), from that of log p(x, z) in the draws.
  gradient(noise, slopes) {
    const n = this.size, found = new Float64Array(this.params.length), count = noise.length / n;
    for (let k = 0; k < count; k++) {
      let at = 2 * n;
      for (let i = 0; i < n; i++) {
        const slope = slopes[k * n + i] / count;
        found[i] += slope;
        found[n + i] += (slope * noise[k * n + i] * this.tril[i][i] + 1 / count) * tameScaleSlope(this.params[n + i]);
        if (this.dense) for (let j = 0; j < i; j++) found[at++] += slope * noise[k * n + j];
      }
    }
    return found.map((v) => Number.isFinite(v) ? v : 0);
  }
}
