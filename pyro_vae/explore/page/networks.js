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
  SiLU: [(v) => v * sigmoid(v), (v) => sigmoid(v) * (1 + v * (1 - sigmoid(v)))],
  Softplus: [softplus, sigmoid],
  Sigmoid: [sigmoid, (v) => sigmoid(v) * (1 - sigmoid(v))],
};

// The product of each row of x, [rows, inputs], with a matrix [outputs, inputs], plus a bias. Four rows at a time, so
// that a weight is read once for them.
function product(weight, bias, outputs, inputs, x) {
  const count = x.length / inputs, found = new Float64Array(count * outputs);
  let row = 0;
  for (; row + 4 <= count; row += 4) {
    const a = row * inputs, b = a + inputs, c = b + inputs, d = c + inputs;
    for (let o = 0, at = 0; o < outputs; o++) {
      let s = bias ? bias[o] : 0, t = s, u = s, v = s;
      for (let i = 0; i < inputs; i++, at++) {
        const w = weight[at];
        s += w * x[a + i];
        t += w * x[b + i];
        u += w * x[c + i];
        v += w * x[d + i];
      }
      const to = row * outputs + o;
      found[to] = s;
      found[to + outputs] = t;
      found[to + 2 * outputs] = u;
      found[to + 3 * outputs] = v;
    }
  }
  for (; row < count; row++) {
    for (let o = 0, at = 0; o < outputs; o++) {
      let s = bias ? bias[o] : 0;
      for (let i = 0, from = row * inputs; i < inputs; i++, at++, from++) s += weight[at] * x[from];
      found[row * outputs + o] = s;
    }
  }
  return found;
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

// Calls `visit` for each pixel of the smaller image and each of its kernel's pixels in the larger one: with where a row
// of patches has that pixel, and where the larger image has it.
function eachPatch({ large, small, planes, kernel, stride }, count, visit) {
  const [height, width] = large, pad = (kernel - 1) / 2;
  let patch = 0;
  for (let n = 0; n < count; n++) {
    for (let y = 0; y < small[0]; y++) for (let x = 0; x < small[1]; x++) {
      for (let j = 0; j < kernel; j++) for (let i = 0; i < kernel; i++, patch += planes) {
        const row = y * stride + j - pad, column = x * stride + i - pad;
        if (row < 0 || column < 0 || row >= height || column >= width) continue;
        visit(patch, ((n * height + row) * width + column) * planes);
      }
    }
  }
}

// The patches of larger images, [pixels of the smaller, kernel's pixels and planes].
function gathered(layer, images) {
  const { large, small, planes, kernel } = layer, count = images.length / (large[0] * large[1] * planes);
  const patches = new Float64Array(count * small[0] * small[1] * kernel * kernel * planes);
  eachPatch(layer, count, (patch, at) => { for (let p = 0; p < planes; p++) patches[patch + p] = images[at + p]; });
  return patches;
}

// The reverse: patches, added where they overlap.
function scattered(layer, patches) {
  const { large, small, planes, kernel } = layer, count = patches.length / (small[0] * small[1] * kernel * kernel * planes);
  const images = new Float64Array(count * large[0] * large[1] * planes);
  eachPatch(layer, count, (patch, at) => { for (let p = 0; p < planes; p++) images[at + p] += patches[patch + p]; });
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
  for (const i of at) mean += x[i] / at.length;
  for (const i of at) variance += (x[i] - mean) ** 2 / at.length;
  return [mean, Math.sqrt(variance + eps)];
}

function normalised(layer, x) {
  const found = new Float64Array(x.length), { weight, bias, planes } = layer;
  eachGroup(layer, x.length, (at) => {
    const [mean, sd] = moments(x, at, layer.eps);
    for (const i of at) found[i] = (x[i] - mean) / sd * weight[i % planes] + bias[i % planes];
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
  return Float64Array.from({ length: x.length / 2 }, (_, k) => {
    const at = 2 * width * Math.floor(k / width) + k % width;
    return x[at] * sigmoid(x[at + width]);
  });
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

const plus = (a, b) => a.map((v, i) => v + b[i % b.length]);

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
  elementwise: [({ name }, x) => x.map(ELEMENTWISE[name][0]), ({ name }, x, g) => x.map((v, i) => ELEMENTWISE[name][1](v) * g[i])],
};

// The layers as they came, with their arrays unpacked.
function compiled(layers) {
  return layers.map((layer) => {
    const weight = layer.weight && unpack(layer.weight), bias = layer.bias && unpack(layer.bias).data;
    return { ...layer, weight: weight && weight.data, shape: weight && weight.shape, bias, body: layer.body && compiled(layer.body) };
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
