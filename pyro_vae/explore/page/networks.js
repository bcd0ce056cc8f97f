// Networks, layer by layer, of several inputs side by side: their outputs, and the gradient in their inputs.
// Images are [height, width, planes] inside, so a convolution is a product with a matrix too.

const sigmoid = (v) => 1 / (1 + Math.exp(-v));
const softplus = (v) => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)));
const normalDensity = (v) => Math.exp(-v * v / 2) / Math.sqrt(2 * Math.PI);

// The standard normal distribution function: its series of positive terms, or its tail's continued fraction.
function normalShare(v) {
  const size = Math.abs(v);
  if (size > 4) {
    let fraction = 0;
    for (let n = 40; n > 0; n--) fraction = n / (size + fraction);
    const tail = normalDensity(size) / (size + fraction);
    return v > 0 ? 1 - tail : tail;
  }
  let term = v, sum = v;
  for (let n = 3; Math.abs(term) > 1e-17 * Math.abs(sum); n += 2) { term *= v * v / n; sum += term; }
  return 0.5 + normalDensity(v) * sum;
}

// Nonlinearities, each with its slope.
const ELEMENTWISE = {
  Tanh: [Math.tanh, (v) => 1 - Math.tanh(v) ** 2],
  ReLU: [(v) => Math.max(v, 0), (v) => v > 0 ? 1 : 0],
  LeakyReLU: [(v) => v > 0 ? v : 0.01 * v, (v) => v > 0 ? 1 : 0.01],
  ELU: [(v) => v > 0 ? v : Math.expm1(v), (v) => v > 0 ? 1 : Math.exp(v)],
  GELU: [(v) => v * normalShare(v), (v) => normalShare(v) + v * normalDensity(v)],
  SiLU: [(v) => v * sigmoid(v), (v) => { const open = sigmoid(v); return open * (1 + v * (1 - open)); }],
  Softplus: [softplus, sigmoid],
  Sigmoid: [sigmoid, (v) => sigmoid(v) * (1 - sigmoid(v))],
};

// The product of each row of x, [rows, inputs], with a matrix [outputs, inputs], plus a bias. Four rows and two outputs
// at a time, so that a number that is read serves several products, and each sum need not wait for another.
function product(weight, bias, outputs, inputs, x) {
  const count = x.length / inputs, found = new Float64Array(count * outputs), rows = count - count % 4, pairs = outputs - outputs % 2;
  for (let o = 0; o < pairs; o += 2) {
    const p = o * inputs, q = p + inputs, first = bias ? bias[o] : 0, second = bias ? bias[o + 1] : 0;
    for (let row = 0; row < rows; row += 4) {
      const a = row * inputs, b = a + inputs, c = b + inputs, d = c + inputs;
      let a1 = first, b1 = first, c1 = first, d1 = first, a2 = second, b2 = second, c2 = second, d2 = second;
      for (let i = 0; i < inputs; i++) {
        const w1 = weight[p + i], w2 = weight[q + i], xa = x[a + i], xb = x[b + i], xc = x[c + i], xd = x[d + i];
        a1 += w1 * xa;
        a2 += w2 * xa;
        b1 += w1 * xb;
        b2 += w2 * xb;
        c1 += w1 * xc;
        c2 += w2 * xc;
        d1 += w1 * xd;
        d2 += w2 * xd;
      }
      const to = row * outputs + o;
      found[to] = a1;
      found[to + 1] = a2;
      found[to + outputs] = b1;
      found[to + outputs + 1] = b2;
      found[to + 2 * outputs] = c1;
      found[to + 2 * outputs + 1] = c2;
      found[to + 3 * outputs] = d1;
      found[to + 3 * outputs + 1] = d2;
    }
  }
  for (let row = 0; row < rows; row++) for (let o = pairs; o < outputs; o++) found[row * outputs + o] = product1(weight, bias, o, inputs, x, row);
  for (let row = rows; row < count; row++) for (let o = 0; o < outputs; o++) found[row * outputs + o] = product1(weight, bias, o, inputs, x, row);
  return found;
}

// One element of it, by four sums that don't wait for each other.
function product1(weight, bias, o, inputs, x, row) {
  const at = o * inputs, from = row * inputs, fours = inputs - inputs % 4;
  let s = bias ? bias[o] : 0, t = 0, u = 0, v = 0;
  for (let i = 0; i < fours; i += 4) {
    s += weight[at + i] * x[from + i];
    t += weight[at + i + 1] * x[from + i + 1];
    u += weight[at + i + 2] * x[from + i + 2];
    v += weight[at + i + 3] * x[from + i + 3];
  }
  for (let i = fours; i < inputs; i++) s += weight[at + i] * x[from + i];
  return s + t + u + v;
}

function transposed(matrix, rows, columns) {
  const found = new Float64Array(matrix.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) found[c * rows + r] = matrix[r * columns + c];
  return found;
}

// A layer's matrix with rows and columns exchanged, made once.
function turned(layer) {
  const [rows, columns] = layer.shape;
  return layer.turned || (layer.turned = transposed(layer.weight, rows, columns));
}

const withMatrix = (layer, x) => product(layer.weight, layer.bias, ...layer.shape, x);
const throughMatrix = (layer, g) => product(turned(layer), null, layer.shape[1], layer.shape[0], g);

// The patches of larger images, [pixels of the smaller, kernel's pixels and planes]; or the reverse: patches, added to
// `images` where they overlap.
function patched({ large, small, planes, kernel, stride }, images, patches, gather) {
  const [height, width] = large, pad = (kernel - 1) / 2, count = images.length / (height * width * planes);
  let patch = 0;
  for (let n = 0; n < count; n++) {
    for (let y = 0; y < small[0]; y++) for (let x = 0; x < small[1]; x++) {
      for (let j = 0; j < kernel; j++) for (let i = 0; i < kernel; i++, patch += planes) {
        const row = y * stride + j - pad, column = x * stride + i - pad;
        if (row < 0 || column < 0 || row >= height || column >= width) continue;
        const at = ((n * height + row) * width + column) * planes;
        if (gather) for (let p = 0; p < planes; p++) patches[patch + p] = images[at + p];
        else for (let p = 0; p < planes; p++) images[at + p] += patches[patch + p];
      }
    }
  }
}

const sizeOf = ([height, width], planes) => height * width * planes;

function gathered(layer, images) {
  const { large, small, planes, kernel } = layer, count = images.length / sizeOf(large, planes);
  const patches = new Float64Array(count * sizeOf(small, planes) * kernel * kernel);
  patched(layer, images, patches, true);
  return patches;
}

function scattered(layer, patches) {
  const { large, small, planes, kernel } = layer, count = patches.length / (sizeOf(small, planes) * kernel * kernel);
  const images = new Float64Array(count * sizeOf(large, planes));
  patched(layer, images, patches, false);
  return images;
}

// Images with planes first to planes last, or back.
function reordered({ planes, pixels }, x, last) {
  const found = new Float64Array(x.length), size = planes * pixels;
  for (let from = 0; from < x.length; from += size) {
    for (let p = 0; p < planes; p++) for (let i = 0; i < pixels; i++) {
      const first = from + p * pixels + i, other = from + i * planes + p;
      if (last) found[other] = x[first]; else found[first] = x[other];
    }
  }
  return found;
}

// Calls `visit` for the elements of each group of a norm of images [pixels, planes], as a list of positions.
function eachGroup({ groups, planes, pixels }, length, visit) {
  const each = planes / groups, at = new Int32Array(pixels * each);
  for (let from = 0; from < length; from += pixels * planes) {
    for (let group = 0; group < groups; group++) {
      for (let i = 0, k = 0; i < pixels; i++) for (let p = 0; p < each; p++, k++) at[k] = from + i * planes + group * each + p;
      visit(at);
    }
  }
}

// Mean and standard deviation of the elements at some positions.
function moments(x, at, eps) {
  let mean = 0, variance = 0;
  for (let k = 0; k < at.length; k++) mean += x[at[k]];
  mean /= at.length;
  for (let k = 0; k < at.length; k++) variance += (x[at[k]] - mean) * (x[at[k]] - mean);
  return [mean, Math.sqrt(variance / at.length + eps)];
}

function normalised(layer, x) {
  const found = new Float64Array(x.length), { weight, bias, planes } = layer;
  eachGroup(layer, x.length, (at) => {
    const [mean, sd] = moments(x, at, layer.eps);
    for (let k = 0; k < at.length; k++) {
      const i = at[k], plane = i % planes;
      found[i] = (x[i] - mean) / sd * weight[plane] + bias[plane];
    }
  });
  return found;
}

function throughNorm(layer, x, g) {
  const found = new Float64Array(x.length), { weight, planes } = layer;
  eachGroup(layer, x.length, (at) => {
    const [mean, sd] = moments(x, at, layer.eps);
    let first = 0, second = 0;
    for (const i of at) {
      const h = g[i] * weight[i % planes] / at.length;
      first += h;
      second += h * (x[i] - mean) / sd;
    }
    for (const i of at) found[i] = (g[i] * weight[i % planes] - first - second * (x[i] - mean) / sd) / sd;
  });
  return found;
}

function gated({ width }, x) {
  const found = new Float64Array(x.length / 2);
  for (let k = 0; k < found.length; k++) {
    const at = 2 * width * Math.floor(k / width) + k % width;
    found[k] = x[at] * sigmoid(x[at + width]);
  }
  return found;
}

function throughGate({ width }, x, g) {
  const found = new Float64Array(x.length);
  g.forEach((slope, k) => {
    const at = 2 * width * Math.floor(k / width) + k % width, open = sigmoid(x[at + width]);
    found[at] = slope * open;
    found[at + width] = slope * x[at] * open * (1 - open);
  });
  return found;
}

// The sum of a and b, which is repeated if it is shorter.
function plus(a, b) {
  const found = new Float64Array(a.length), size = b.length;
  for (let from = 0; from < a.length; from += size) for (let i = 0; i < size; i++) found[from + i] = a[from + i] + b[i];
  return found;
}

function each(f, x) {
  const found = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) found[i] = f(x[i]);
  return found;
}

function sloped(slope, x, g) {
  const found = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) found[i] = slope(x[i]) * g[i];
  return found;
}

// For each kind of layer: its outputs, and the gradient in its inputs from that in its outputs.
const LAYERS = {
  linear: [withMatrix, (layer, x, g) => throughMatrix(layer, g)],
  convolution: [(layer, x) => withMatrix(layer, gathered(layer, x)), (layer, x, g) => scattered(layer, throughMatrix(layer, g))],
  transposed: [
    (layer, x) => {
      const images = scattered(layer, product(layer.weight, null, ...layer.shape, x));
      return layer.bias ? plus(images, layer.bias) : images;
    },
    (layer, x, g) => throughMatrix(layer, gathered(layer, g)),
  ],
  planes_last: [(layer, x) => reordered(layer, x, true), (layer, x, g) => reordered(layer, g, false)],
  planes_first: [(layer, x) => reordered(layer, x, false), (layer, x, g) => reordered(layer, g, true)],
  norm: [normalised, throughNorm],
  scale: [
    ({ weight, bias }, x) => x.map((v, i) => v * weight[i % weight.length] + bias[i % weight.length]),
    ({ weight }, x, g) => g.map((v, i) => v * weight[i % weight.length]),
  ],
  bias: [({ bias }, x) => plus(x, bias), (layer, x, g) => g],
  gate: [gated, throughGate],
  residual: [
    ({ body }, x) => plus(x, forward(body, x)),
    ({ body }, x, g) => plus(g, backward(body, passed(body, x), g)),
  ],
  elementwise: [({ name }, x) => each(ELEMENTWISE[name][0], x), ({ name }, x, g) => sloped(ELEMENTWISE[name][1], x, g)],
};

// The layers as they came, with their arrays unpacked.
function compiled(layers) {
  return layers.map((layer) => {
    const weight = layer.weight && unpack(layer.weight), double = (packed) => packed && Float64Array.from(packed.data);
    const arrays = { weight: double(weight), bias: double(layer.bias && unpack(layer.bias)) };
    return { ...layer, ...arrays, shape: weight && weight.shape, body: layer.body && compiled(layer.body) };
  });
}

// Outputs of inputs [count, size], one after the other.
function forward(layers, x) {
  return layers.reduce((value, layer) => LAYERS[layer.kind][0](layer, value), x);
}

// What each layer got, and at last the outputs.
function passed(layers, x) {
  const found = [x];
  for (const layer of layers) found.push(LAYERS[layer.kind][0](layer, found.at(-1)));
  return found;
}

// The gradient in the inputs, from that in the outputs and what `passed` gave.
function backward(layers, inputs, gradient) {
  return layers.reduceRight((g, layer, i) => LAYERS[layer.kind][1](layer, inputs[i], g), gradient);
}

// Multiplications for one input, about.
function work(layers) {
  return layers.reduce((sum, layer) => {
    const matrix = layer.weight ? layer.weight.length * (layer.small ? layer.small[0] * layer.small[1] : 1) : 0;
    return sum + matrix + (layer.body ? work(layer.body) : 0);
  }, 0);
}
