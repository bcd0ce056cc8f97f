// Importance weights: Pareto's k and the weights smoothed by it, as pyro_vae.statistics has them; resampling.

const EPSILON = 2 ** -52, LEAST = Math.log(2 ** -1022);
const average = (values) => values.reduce((a, b) => a + b, 0) / values.length;

function errorOf(values) {
  const mean = average(values);
  return Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1) / values.length);
}

// The k above which not to trust K weights, and not to trust the error of their mean.
const reliableBelow = (count) => count > 10 ? Math.min(1 - 1 / Math.log10(count), 0.7) : 0;
const errorBarBelow = (count) => Math.min(reliableBelow(count), 0.5);
const tailLength = (count) => Math.ceil(Math.min(count / 5, 3 * Math.sqrt(count)));

// Shape and scale of the generalised Pareto distribution of excesses in rising order (Zhang and Stephens 2009).
function fittedPareto(excesses) {
  const n = excesses.length, size = 30 + Math.floor(Math.sqrt(n)), quarter = excesses[Math.floor(n / 4 + 0.5) - 1];
  const b = Array.from({ length: size }, (_, i) => (1 - Math.sqrt(size / (i + 0.5))) / (3 * quarter) + 1 / excesses[n - 1]);
  const shape = (at) => excesses.reduce((sum, x) => sum + Math.log1p(-at * x), 0) / n;
  const profile = b.map((at) => { const k = shape(at); return n * (Math.log(-(at / k)) - k - 1); });
  const weights = profile.map((own) => 1 / profile.reduce((sum, other) => sum + Math.exp(other - own), 0));
  const kept = weights.map((weight) => weight >= 10 * EPSILON ? weight : 0), total = kept.reduce((a, c) => a + c, 0);
  const mean = b.reduce((sum, at, i) => sum + (kept[i] ? at * kept[i] / total : 0), 0), k = shape(mean);
  return [(n * k + 5) / (n + 10), -k / mean];
}

// The log-weights with their tail smoothed, and k: -Infinity where the tail is all equal up to rounding.
function smoothedTail(logWeights, rounding) {
  const length = tailLength(logWeights.length), smoothed = Float64Array.from(logWeights);
  if (length < 5) return { smoothed, k: NaN };
  const order = [...logWeights.keys()].sort((a, b) => logWeights[a] - logWeights[b]);
  const ordered = order.map((i) => logWeights[i]), largest = ordered.at(-1);
  if (!Number.isFinite(largest)) return { smoothed, k: NaN };
  if (largest - ordered.at(-length - 1) < Math.max(1e-6, 8 * rounding)) return { smoothed, k: -Infinity };
  const top = ordered.slice(-length - 1).map((v) => v - largest), cut = Math.max(top[0], LEAST);
  const tail = top.filter((v) => v > cut).map((v) => Math.exp(v) - Math.exp(cut));
  if (tail.length < 5) return { smoothed, k: Infinity };
  const [k, sigma] = fittedPareto(tail);
  if (Number.isFinite(k) && sigma > 0 && Number.isFinite(ordered.at(-length - 2))) {
    tail.forEach((_, i) => {
      const rate = -Math.log1p(-(i + 0.5) / tail.length);
      const value = sigma * (Math.abs(k) < EPSILON ? rate : Math.expm1(k * rate) / k);
      smoothed[order[order.length - tail.length + i]] = Math.min(Math.log(value + Math.exp(cut)), 0) + largest;
    });
  }
  return { smoothed, k };
}

// Whether one datum's k, of which k-hat is an estimate, is above a threshold with a probability of more than 0.2.
function untrustworthy(k, count, below) {
  if (k === -Infinity) return false;
  if (Number.isNaN(k)) return true;
  const tail = tailLength(count), spread = 1.1 * Math.sqrt(tail) / (tail + 10), step = Math.min(0.05, 0.4 * spread);
  const first = Math.floor((-1 - below) / step), last = Math.ceil((1.5 - below) / step);
  const grid = Array.from({ length: last - first }, (_, i) => below + step * (first + i + 0.5));
  const nearest = grid[Math.round(Math.min(grid.length - 1, Math.max(0, (k - grid[0]) / step)))];
  const likelihood = grid.map((at) => {
    const scatter = spread * (1 + Math.max(at, -0.5));
    return Math.exp(-(((nearest - at) / scatter) ** 2) / 2) / scatter;
  });
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  return sum(likelihood.filter((_, i) => grid[i] > below)) > 0.2 * sum(likelihood);
}

// What is known of K draws from their log-weights, as explore/weighed.py has it.
function weighedBy(logWeights, rounding) {
  const count = logWeights.length, total = logSum(logWeights), shares = logWeights.map((v) => Math.exp(v - total));
  const ess = 1 / shares.reduce((sum, s) => sum + s * s, 0), { smoothed, k } = smoothedTail(logWeights, rounding);
  const squared = Math.max(0, 1 / ess - 1 / count) * count / (count - 1);
  return { shares, smoothed, ess, pareto_k: k, log_p: total - Math.log(count), log_p_error: Math.sqrt(squared + rounding ** 2) };
}

// Positions of draws, each taken in proportion to its weight, rounded up or down at random, in a random order.
function resampled(logWeights, count, uniform) {
  const total = logSum(logWeights), start = uniform(), found = [];
  let sum = 0;
  logWeights.forEach((v, i) => {
    sum += Math.exp(v - total) * count;
    while (found.length < count && found.length + start < sum) found.push(i);
  });
  while (found.length < count) found.push(logWeights.length - 1); // the sum is a rounding error short
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(uniform() * (i + 1));
    [found[i], found[j]] = [found[j], found[i]];
  }
  return found;
}
