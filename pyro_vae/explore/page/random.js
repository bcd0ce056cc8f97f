// Random numbers: those that torch gives on a CPU for the same seed, in single precision.

// The generator MT19937 of Matsumoto and Nishimura, 1998, as words of 32 bits.
function twister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = 624;
  const renew = () => {
    for (let i = 0; i < 624; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    at = 0;
  };
  return () => {
    if (at === 624) renew();
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

// Uniform numbers in [0, 1), multiples of 2^-24.
function uniforms(seed) {
  const word = twister(seed);
  return () => (word() & 0xffffff) / 0x1000000;
}

// `count` standard normal numbers, 16 or more, as torch.randn: Box and Muller's, eight by eight.
function normals(seed, count) {
  const uniform = uniforms(seed), found = Float64Array.from({ length: count }, uniform);
  const pairs = (at) => {
    for (let i = at; i < at + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - found[i])), angle = 2 * Math.PI * found[i + 8];
      found[i] = radius * Math.cos(angle);
      found[i + 8] = radius * Math.sin(angle);
    }
  };
  for (let at = 0; at + 15 < count; at += 16) pairs(at);
  if (count % 16) {
    for (let i = count - 16; i < count; i++) found[i] = uniform();
    pairs(count - 16);
  }
  return found;
}

// Normal numbers [count, size] of the first datum of a tile of data, whose draws are made together.
function ofFirst(seed, count, tile, size) {
  const all = normals(seed, count * tile * size);
  return Float64Array.from({ length: count * size }, (_, k) => all[Math.floor(k / size) * tile * size + k % size]);
}
