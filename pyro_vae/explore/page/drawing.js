// Canvases: colours, images, axes, contours, dots.

const LABELS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#009988", "#994f00", "#8899aa"];

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function labelColour(label) {
  return label < 0 ? colour("faint") : LABELS[label % LABELS.length];
}

// A canvas of as many pixels as the screen has there: [context, width, height] in CSS pixels.
function sharp(canvas) {
  const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  const width = Math.round(box.width), height = Math.round(box.height);
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return [context, width, height];
}

// An image of the data, a canvas pixel for each pixel; `seen` is 0 where a pixel is not observed.
function drawImage(canvas, values, seen = null) {
  const { height, width, channels, last, low, high } = start.view;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height), size = width * height;
  const grey = (value) => 255 * Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
  for (let i = 0; i < size; i++) {
    const at = (channel) => last ? i * channels + channel : channel * size + i;
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * i + channel] = grey(values[at(channels === 1 ? 0 : channel)]);
    }
    image.data[4 * i + 3] = 255;
    if (seen && Array.from({ length: channels }, (_, c) => at(c)).some((k) => !seen[k])) {
      const checked = (i % width + Math.floor(i / width)) % 2 ? 150 : 190;
      image.data.set([checked, checked, checked + 25, 255], 4 * i);
    }
  }
  context.putImageData(image, 0, 0);
}

// A small canvas of an image, `size` CSS pixels wide.
function thumbnail(values, size = 44) {
  const canvas = element("canvas");
  drawImage(canvas, values);
  canvas.style.width = `${size}px`;
  return canvas;
}

function ticks(low, high, count = 6) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

// The segments of a contour line of values on a grid, in units of its columns and rows, by marching squares.
function contour(values, columns, level) {
  const segments = [], count = values.length / columns;
  for (let r = 0; r + 1 < count; r++) {
    for (let c = 0; c + 1 < columns; c++) {
      const a = values[r * columns + c], b = values[r * columns + c + 1];
      const d = values[(r + 1) * columns + c], e = values[(r + 1) * columns + c + 1];
      const cuts = [];
      const cut = (p, q, at) => { if ((p > level) !== (q > level)) cuts.push(at((level - p) / (q - p))); };
      cut(a, b, (t) => [c + t, r]);
      cut(b, e, (t) => [c + 1, r + t]);
      cut(d, e, (t) => [c + t, r + 1]);
      cut(a, d, (t) => [c, r + t]);
      for (let i = 0; i + 1 < cuts.length; i += 2) segments.push([cuts[i], cuts[i + 1]]);
    }
  }
  return segments;
}

// The log-densities above which a grid has these shares of its mass: the smallest regions that hold them.
function massLevels(logDensity, shares) {
  const sorted = Float32Array.from(logDensity).sort().reverse(), top = sorted[0];
  let total = 0;
  for (const value of sorted) total += Math.exp(value - top);
  const levels = [];
  let sum = 0, next = 0;
  for (const value of sorted) {
    sum += Math.exp(value - top);
    while (next < shares.length && sum >= shares[next] * total) { levels.push(value); next++; }
  }
  return levels;
}

// Half axes and angle of the ellipse of a normal that holds a share of its mass.
function ellipse(covariance, share) {
  const [[a, b], [, d]] = covariance, radius = Math.sqrt(-2 * Math.log(1 - share));
  const half = (a + d) / 2, root = Math.hypot((a - d) / 2, b);
  const angle = Math.atan2(2 * b, a - d) / 2;
  return { rx: radius * Math.sqrt(half + root), ry: radius * Math.sqrt(Math.max(0, half - root)), angle };
}
