// Discrete codes: the map of entries, decoded as it changes.

const codes = { own: [], k: [], at: 0 };

function showCodesOf(answer) {
  datum.answer = { ...answer, posterior: null };
  codes.own = answer.k;
  codes.k = [...answer.k];
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

function showCodeMap() {
  const { shape, size } = start.codes, across = shape.length > 1 ? shape[shape.length - 1] : Math.min(shape[0], 8);
  const holder = byId("codemap");
  holder.style.gridTemplateColumns = `repeat(${across}, auto)`;
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
  const pictures = rows(unpack((await ask("decode_codes", { k })).x));
  byId("entries").replaceChildren(...pictures.map((x, entry) => {
    const button = element("button", { type: "button", className: "thumb" }, thumbnail(x, 40));
    button.setAttribute("aria-label", `entry ${entry}`);
    button.setAttribute("aria-current", String(entry === codes.k[at]));
    button.title = `entry ${entry}`;
    button.addEventListener("click", () => setCode(at, entry));
    return button;
  }));
});
