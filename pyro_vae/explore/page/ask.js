// Questions to the server, and the arrays of its answers.

const start = JSON.parse(document.getElementById("start").textContent);
const byId = (id) => document.getElementById(id);

// The answer to a question. An exported page computes it: `outdated` says whether nobody waits for it any more, `partly`
// gets what is known at once, and `progress` the share that is done.
async function ask(name, fields, { outdated = () => false, partly = () => {}, progress = () => {} } = {}) {
  if (start.model) return offline()[name](fields, { outdated, partly, progress });
  const response = await fetch(`api/${name}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(fields),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function offline() {
  return offline.made || (offline.made = new Offline(start.model));
}

class Outdated extends Error {}

// Runs one job at a time; of those that come meanwhile only the last. So a drag never waits for what is out of date. A job
// gets a function that says whether it is.
class Latest {
  constructor(job) { this.job = job; this.busy = false; this.next = null; }

  async run(...given) {
    this.next = given;
    if (this.busy) return;
    this.busy = true;
    while (this.next) {
      const now = this.next;
      this.next = null;
      try {
        await this.job(() => this.next !== null, ...now);
        problem(this, "");
      } catch (error) {
        if (!(error instanceof Outdated)) problem(this, error instanceof TypeError && !start.model ? "The server does not answer: has it ended?" : error.message);
      }
    }
    this.busy = false;
  }
}

// Shows what went wrong, until the same job goes well.
const problems = new Map();
function problem(job, text) {
  if (text) problems.set(job, text); else problems.delete(job);
  byId("problem").hidden = !problems.size;
  byId("problem").textContent = [...new Set(problems.values())].join(" ");
}

// A packed array as its shape and its numbers.
function unpack(packed) {
  if (packed.data) return packed;
  const type = Object.keys(packed).find((key) => key !== "shape" && key !== "of"), text = atob(packed[type]);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const read = {
    float32: () => new Float32Array(bytes.buffer),
    uint32: () => new Uint32Array(bytes.buffer),
    uint8: () => Float32Array.from(bytes, (v) => v / packed.of),
    float16: () => Float32Array.from(new Uint16Array(bytes.buffer), half),
  };
  return { shape: packed.shape, data: read[type]() };
}

// A number of 16 bits: sign, 5 bits of exponent, 10 of fraction.
function half(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
  return bits & 0x8000 ? -size : size;
}

// The parts of an array along its first dimension.
function rows(array) {
  const count = array.shape[0], size = array.data.length / count;
  return Array.from({ length: count }, (_, i) => array.data.subarray(i * size, (i + 1) * size));
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && name !== "list") made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function number(value, digits = 2) {
  if (value === null || value === undefined) return "unknown";
  const text = Math.abs(value) >= 1e5 ? value.toExponential(2) : value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

// A text for screen readers, once nothing newer has come for a moment.
const saying = {};
function say(text, about = "point") {
  clearTimeout(saying[about]);
  saying[about] = setTimeout(() => { byId(`said-${about}`).textContent = text; }, 400);
}
