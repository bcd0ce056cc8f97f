// Discrete codes: the map of entries, decoded as it changes.

const codes = { own: [], k: [], at: null };

function showCodesOf(answer) {
  datum.answer = { ...answer, posterior: null };
  codes.own = answer.k;
  codes.k = [...answer.k];
  codes.at ??= middleOf(start.codes.shape);
  if (isImage()) showPictures(); else showTable();
  const terms = [
    ["lower bound on log p(x), nats", "log p(x|k) + log p(k) at the code k of the datum", answer.numbers.elbo],
    ["reconstruction: log p(x|k), nats", "how well the code explains the datum", answer.numbers.reconstruction],
    ["−log p(k), nats", "what the prior takes for the code", answer.numbers.kl],
  ];
  byId("numbers").replaceChildren(...terms.map(([name, words, value]) => element("tr", {},
    element("th", { scope: "row" }, name, element("small", {}, words)), element("td", {}, number(value)))));
  byId("numbers-note").textContent = "The guide puts everything on one code, so there is no posterior to draw and no gap to measure.";
  showCodeMap();
  decodingCodes.run();
}

// The position in the middle of a map of codes: those at the edge seldom change anything.
function middleOf(shape) {
  return shape.reduce((at, side) => at * side + Math.floor(side / 2), 0);
}

function showCodeMap() {
  const { shape, size } = start.codes, across = shape.length > 1 ? shape[shape.length - 1] : Math.min(shape[0], 8);
  const holder = byId("codemap");
  holder.style.gridTemplateColumns = `repeat(${across}, minmax(0, 3.6rem))`;
  holder.replaceChildren(...codes.k.map((value, i) => {
    const input = element("input", { type: "number", min: 0, max: size - 1, step: 1, value });
    input.setAttribute("aria-label", `position ${i + 1}`);
    input.classList.toggle("chosen", i === codes.at);
    input.addEventListener("focus", () => {
      codes.at = i;
      [...holder.children].forEach((other, j) => other.classList.toggle("chosen", j === i));
      listing.run();
    });
    input.addEventListener("input", () => setCode(i, Number(input.value)));
    return input;
  }));
}

function setCode(i, value) {
  if (!Number.isInteger(value) || value < 0 || value >= start.codes.size) return;
  codes.k[i] = value;
  byId("codemap").children[i].value = value;
  decodingCodes.run();
}

const decodingCodes = new Latest(async () => {
  datum.decoded = await ask("decode_codes", { k: [codes.k] });
  showDecoded(datum.decoded);
  await listing.run();
});

// What the datum becomes with each entry at the chosen position.
const listing = new Latest(async () => {
  if (!isImage()) return;
  const count = Math.min(start.codes.size, 64), at = codes.at;
  const k = Array.from({ length: count }, (_, entry) => codes.k.map((value, i) => i === at ? entry : value));
  const pictures = rows(unpack((await ask("decode_codes", { k })).x)), part = changedPart(pictures);
  const cut = part ? "each cut to the part that it changes" : "none of them changes the picture";
  byId("entries-note").textContent = `E[x|k] with entries 0 to ${count - 1} of ${start.codes.size}, ${cut}.`;
  byId("entries").replaceChildren(...pictures.map((x, entry) => {
    const button = element("button", { type: "button", className: "thumb" }, cropped(x, part, 40));
    button.setAttribute("aria-label", `entry ${entry}`);
    button.setAttribute("aria-current", String(entry === codes.k[at]));
    button.title = `entry ${entry}`;
    button.addEventListener("click", () => setCode(at, entry));
    return button;
  }));
});

// The square of pixels around those that differ between pictures, [left, top, side]; null where none do.
function changedPart(pictures) {
  const { height, width, channels, last, low, high } = start.view, box = [width, height, -1, -1];
  for (let pixel = 0; pixel < height * width; pixel++) {
    const values = (c) => pictures.map((x) => x[last ? pixel * channels + c : c * height * width + pixel]);
    const spread = Array.from({ length: channels }, (_, c) => Math.max(...values(c)) - Math.min(...values(c)));
    if (Math.max(...spread) < 0.05 * (high - low)) continue;
    const [x, y] = [pixel % width, Math.floor(pixel / width)];
    [box[0], box[1], box[2], box[3]] = [Math.min(box[0], x), Math.min(box[1], y), Math.max(box[2], x), Math.max(box[3], y)];
  }
  if (box[2] < 0) return null;
  const side = Math.min(Math.max(box[2] - box[0], box[3] - box[1]) + 3, width, height);
  const from = (low, high, most) => Math.max(0, Math.min(most - side, Math.round((low + high + 1 - side) / 2)));
  return [from(box[0], box[2], width), from(box[1], box[3], height), side];
}

// A thumbnail of a part of a picture.
function cropped(values, part, size) {
  const whole = thumbnail(values, size);
  if (!part) return whole;
  const [left, top, side] = part, canvas = element("canvas", { width: side, height: side });
  canvas.getContext("2d").drawImage(whole, left, top, side, side, 0, 0, side, side);
  canvas.style.width = `${size}px`;
  return canvas;
}
