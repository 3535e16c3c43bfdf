// Dead letters: search, details, redrive.

import { bytes, count, get, left, make, post, right, table } from "./dom.js";

const form = document.getElementById("search");
const found = document.getElementById("found");
const refused = document.getElementById("search-refused");
const list = document.getElementById("letters");
const newer = document.getElementById("newer");
const older = document.getElementById("older");
const details = document.getElementById("details");
const dialog = document.getElementById("redrive");
const confirmForm = document.getElementById("confirm");
const confirmCount = document.getElementById("confirm-count");
const confirmGo = document.getElementById("confirm-go");
const jobBox = document.getElementById("job");

let skip = 0;
let wanted = { query: "", count: 0 };
let searched = false;

const query = () => new URLSearchParams(new FormData(form)).toString();
const choices = (id, names) =>
  document.getElementById(id).append(...names.map((name) => make("option", { value: name }, name)));

/** Makes the form of what the deployment has. */
export function prepare(session) {
  choices("search-reason", session.reasons);
  choices("search-source", session.sources);
  choices("search-sink", session.sinks);
  if (session.read_only) document.getElementById("dry-run").hidden = true;
}

/** Searches when the part is shown for the first time. */
export function shown() {
  if (!searched) search(0);
}

async function search(from) {
  searched = true;
  skip = from;
  refused.textContent = "";
  try {
    const page = await get(`/api/letters?${query()}&skip=${skip}`);
    const reasons = Object.entries(page.by_reason).map(([reason, number]) => `${count(number)} ${reason}`);
    const range = page.letters.length > 0 ? `, ${count(skip + 1)} to ${count(skip + page.letters.length)} shown` : "";
    found.textContent = page.found === 0 ? "no letters" : `${count(page.found)} letters (${reasons.join(", ")})${range}`;
    list.replaceChildren(...(page.letters.length > 0 ? [rows(page.letters)] : []));
    newer.hidden = skip === 0;
    older.hidden = skip + page.letters.length >= page.found;
    newer.onclick = () => search(Math.max(0, skip - page.page));
    older.onclick = () => search(skip + page.page);
  } catch (error) {
    refused.textContent = error.message;
  }
}

function rows(letters) {
  const columns = [left("Time"), left("Reason"), left("Source"), left("Sink"), right("Status"), right("Attempts"), left("Keyed id"), left("State"), left("")];
  const row = (letter) => [
    letter.time,
    make("span", { class: `tag ${letter.trusted ? "" : "bad"}` }, letter.reason),
    letter.source ?? "–",
    letter.sink ?? "–",
    letter.status === null || letter.status === undefined ? "–" : String(letter.status),
    letter.attempts === undefined ? "–" : String(letter.attempts),
    make("code", {}, letter.id ?? "–"),
    letter.redriven ? "redriven" : letter.target ? "waiting" : "kept",
    make("button", { type: "button", "aria-label": `Details of ${letter.place}`, onclick: () => show(letter.place) }, "Details"),
  ];
  return table(columns, letters.map(row), "");
}

async function show(place) {
  const body = document.getElementById("details-body");
  body.replaceChildren("reading …");
  details.showModal();
  try {
    const letter = await get(`/api/letter?place=${encodeURIComponent(place)}`);
    const pairs = [
      ["Place", letter.place],
      ["Time", letter.time],
      ["Reason", letter.reason],
      ["Written by a processor", letter.trusted ? "yes, its MAC is right" : "no: nothing that it says is trusted"],
      ["Read from", letter.origin],
      ["Source", letter.source],
      ["Sink", letter.sink],
      ["Status", letter.status],
      ["Attempts", letter.attempts],
      ["Keyed id", letter.id],
      ["webhook-id", letter.webhook_id],
      ["Redriven", letter.redriven],
      ["Would go to", letter.redriven ? undefined : letter.target],
      ["Is kept because", letter.why_kept],
      ["Copies", letter.copies && letter.copies.length > 0 ? letter.copies.join(", ") : undefined],
      ["Body", `${bytes(letter.body_bytes)}, sealed`],
    ];
    const present = pairs.filter(([, value]) => value !== undefined && value !== null);
    const facts = make("dl", {}, ...present.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
    const headers = (letter.headers ?? []).map((header) => [
      make("code", {}, header.name),
      make("code", {}, header.name === "ss-mac" ? "(a MAC)" : (header.text ?? `base64: ${header.base64}`)),
    ]);
    body.replaceChildren(facts, make("h3", {}, "Headers"), make("div", { class: "table headers" }, table([left("Name"), left("Text")], headers, "none")));
  } catch (error) {
    body.replaceChildren(make("p", { class: "refused" }, error.message));
  }
}

async function dryRun() {
  refused.textContent = "";
  try {
    wanted.query = query();
    tellPlan(await post("/api/dry-run", wanted.query));
    document.getElementById("redrive-refused").textContent = "";
    dialog.showModal();
  } catch (error) {
    refused.textContent = error.message;
  }
}

function tellPlan(plan) {
  wanted.count = plan.redrivable;
  const numbers = [
    ...Object.entries(plan.targets).map(([target, number]) => [`would go to ${target}`, count(number)]),
    ...Object.entries(plan.kept).map(([why, number]) => [`kept: ${why}`, count(number)]),
    ...(plan.already_redriven > 0 ? [["redriven before", count(plan.already_redriven)]] : []),
    ["together", count(plan.matched)],
  ];
  document.getElementById("redrive-body").replaceChildren(
    make("p", {}, "A dry run: nothing has been done. Each letter goes back once, still sealed, to where it stopped."),
    table([left("What becomes of the letters"), right("Count")], numbers, "no letters"),
  );
  const any = wanted.count > 0;
  document.getElementById("confirm-label").hidden = !any;
  document.getElementById("confirm-label").textContent = `Type ${wanted.count} to redrive them`;
  confirmCount.hidden = confirmGo.hidden = !any;
  confirmGo.textContent = `Redrive ${count(wanted.count)}`;
  confirmCount.value = "";
  confirmGo.disabled = true;
}

confirmCount.addEventListener("input", () => {
  confirmGo.disabled = wanted.count === 0 || confirmCount.value.trim() !== String(wanted.count);
});

confirmForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (confirmGo.disabled) return;
  confirmGo.disabled = true;
  try {
    const pairs = new URLSearchParams(wanted.query);
    pairs.set("confirmed", wanted.count);
    await post("/api/redrive", pairs);
    dialog.close();
  } catch (error) {
    if (error.value?.redrivable !== undefined) tellPlan(error.value);
    document.getElementById("redrive-refused").textContent = error.message;
  }
});

/** Shows the redrive that runs, or the last one. */
export function tellJob(job) {
  jobBox.hidden = !job;
  if (!job) return;
  const outcome = job.outcome;
  if (!outcome) {
    const bar = make("progress", { max: job.total, value: job.went, "aria-label": "Letters redriven" });
    const stop = make("button", { type: "button", onclick: () => post("/api/stop", "").catch(() => {}) }, "Stop");
    jobBox.replaceChildren(make("span", {}, `redriving: ${count(job.went)} of ${count(job.total)} letters`), bar, stop);
    return;
  }
  const text = `last redrive: ${count(outcome.redriven)} of ${count(job.total)} letters went`;
  jobBox.replaceChildren(make("span", { class: outcome.error ? "refused" : "" }, outcome.error ? `${text}: ${outcome.error}` : text));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  search(0);
});
document.getElementById("dry-run").addEventListener("click", dryRun);
document.getElementById("redrive-close").addEventListener("click", () => dialog.close());
