// The best member of the guide's family for a datum: Adam on its own parameters, as pyro_vae.inference.best_member.

const AVERAGED = 25, PATIENCE = 2, SHORTER = 1 / 3, SHORTEST = 1 / 30;

class Climb {
  // `target` has evaluate(z) and slopes(z) of log p(x, z); `seeds` are those of the steps and of the comparisons.
  constructor(target, start, { seeds, ...how }) {
    Object.assign(this, { target, first_lr: how.lr, ...how });
    [this.stepSeeds, this.selectionSeeds] = [seeds.steps, seeds.selection].map((packed) => unpack(packed).data);
    this.own = Float64Array.from(start);
    this.best = this.own;
    this.first = new Float64Array(start.length);
    this.second = new Float64Array(start.length);
    this.waited = 0;
  }

  guide(params) { return new NormalGuide(params, this.size, this.dense); }

  // Pairs of opposite noise, [count, size]: the datum's part of that of a tile of data.
  noise(seed, count) {
    const n = this.size, half = ofFirst(seed, count / 2, this.tile, n);
    return Float64Array.from({ length: count * n }, (_, k) => {
      const pair = Math.floor(k / (2 * n)), value = half[pair * n + k % n];
      return k % (2 * n) < n ? value : -value;
    });
  }

  async run(told) {
    for (let first = 0; first < this.max_steps && this.lr > 0; first += this.round) {
      const end = Math.min(first + this.round, this.max_steps), total = new Float64Array(this.own.length);
      const averaged = Math.min(AVERAGED, end - first);
      for (let step = first; step < end; step++) {
        await this.step(step + 1);
        if (step >= end - averaged) this.own.forEach((v, i) => { total[i] += v / averaged; });
        told((step + 1) / this.max_steps);
      }
      await this.compare(total, first / this.round);
    }
    return this.best;
  }

  async step(step) {
    const q = this.guide(this.own), noise = this.noise(this.stepSeeds[step - 1], this.particles);
    const gradient = q.gradient(noise, await this.target.slopes(q.draws(noise).z));
    this.first = this.first.map((v, i) => 0.9 * v + 0.1 * gradient[i]);
    this.second = this.second.map((v, i) => 0.99 * v + 0.01 * gradient[i] ** 2);
    this.own = this.own.map((v, i) => {
      const usual = Math.sqrt(this.second[i] / (1 - 0.99 ** step)) + 1e-8;
      return v + this.lr * this.first[i] / (1 - 0.9 ** step) / usual;
    });
  }

  // Take the candidate if it is better; shorten the steps where they no longer gain.
  async compare(candidate, round) {
    const [own, before] = [await this.elbos(candidate, round), await this.elbos(this.best, round)];
    const gains = own.map((v, i) => v - before[i]), mean = average(gains), error = errorOf(gains) || 0;
    if (mean > 0) this.best = candidate;
    this.waited = mean > Math.max(2 * error, this.tolerance) ? 0 : this.waited + 1;
    if (this.waited < PATIENCE) return;
    this.waited = 0;
    this.own = this.best;
    this.first = new Float64Array(this.own.length);
    this.lr *= SHORTER;
    if (this.lr < this.first_lr * SHORTEST) this.lr = 0;
  }

  // Estimates of a member's ELBO, each of two draws of opposite noise.
  async elbos(params, round) {
    const q = this.guide(params), chunks = Math.ceil(this.selection / this.chunk), found = [];
    for (let chunk = 0; chunk < chunks; chunk++) {
      const count = Math.min(this.chunk, this.selection - this.chunk * chunk);
      const { z, log } = q.draws(this.noise(this.selectionSeeds[round * chunks + chunk], count));
      const { joint } = await this.target.evaluate(z);
      for (let k = 0; k < count; k += 2) found.push((joint[k] - log[k] + joint[k + 1] - log[k + 1]) / 2);
    }
    return found;
  }
}
