// Questions to the server, and the arrays of its answers.

const start = JSON.parse(document.getElementById("start").textContent);
const byId = (id) => document.getElementById(id);

async function ask(name, fields) {
  if (start.model) {
    ask.offline = ask.offline || new Offline(start.model);
    return ask.offline[name](fields);
  }
  const response = await fetch(`api/${name}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(fields),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// Runs one job at a time; of those that come meanwhile only the last. So a drag never waits for what is out of date.
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
        await this.job(...now);
        problem(this, "");
      } catch (error) {
        problem(this, error instanceof TypeError && !start.model ? "The server does not answer: has it ended?" : error.message);
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

// A packed array as its shape and a Float32Array.
function unpack(packed) {
  if (packed.data) return packed;
  const text = atob(packed.float32), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return { shape: packed.shape, data: new Float32Array(bytes.buffer) };
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
