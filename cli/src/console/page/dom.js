// Making elements and asking the console. Whatever comes from a record is set as text, never as markup.

/** An element with attributes and children; strings become text. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** A table. `columns` are { title, right }, rows are arrays of strings or elements. */
export function table(columns, rows, empty) {
  if (rows.length === 0) return make("p", { class: "empty" }, empty);
  const cell = (content, at) => make("td", { class: columns[at].right ? "right" : "" }, content);
  return make(
    "table",
    {},
    make("thead", {}, make("tr", {}, ...columns.map((column) => make("th", { scope: "col", class: column.right ? "right" : "" }, column.title)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell)))),
  );
}

export const left = (title) => ({ title, right: false });
export const right = (title) => ({ title, right: true });

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export const count = (number) => whole.format(number).replaceAll(",", "\u202f");
export const rate = (number) => (number === 0 || number >= 100 ? count(number) : fine.format(number));

/** Seconds, in a unit that fits. */
export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 s";
  if (value < 0.0009995) return `${whole.format(value * 1e6)} µs`;
  if (value < 0.9995) return `${value < 0.1 ? fine.format(value * 1e3) : whole.format(value * 1e3)} ms`;
  if (value < 120) return `${fine.format(value)} s`;
  return `${whole.format(value / 60)} min`;
}

export const bytes = (value) => (value < 10000 ? `${count(value)} B` : `${count(value / 1024)} KiB`);

let csrf = "";
export function setCsrf(token) {
  csrf = token;
}

/** What the console answers, as an object. Its refusals are errors with its sentence; without a session one has to log in. */
async function ask(path, options) {
  const answer = await fetch(path, options);
  if (answer.status === 401) {
    location.replace("/login");
    throw new Error("log in first");
  }
  const value = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(value.error), { value });
  return value;
}

export const get = (path) => ask(path);
export const post = (path, pairs) =>
  ask(path, { method: "POST", headers: { "x-csrf-token": csrf }, body: new URLSearchParams(pairs) });
