// The page: asks for the state again and again, and shows the part that was chosen.

import { Chart } from "./chart.js";
import { count, get, left, make, post, rate, right, seconds, setCsrf, table } from "./dom.js";
import * as letters from "./letters.js";

const EVERY_MS = 2000;
const POINTS_MAX = 900;
const TONES = ["tone-a", "tone-b", "tone-c", "tone-d", "tone-e", "tone-f"];

const at = (id) => document.getElementById(id);
const put = (id, element) => at(id).replaceChildren(element);
const sum = (counts, of) => Object.values(counts).reduce((all, one) => all + of(one), 0);

const charts = {
  throughput: new Chart(at("chart-throughput"), "Throughput", "per second", rate),
  latency: new Chart(at("chart-latency"), "Latency", "", seconds),
  lag: new Chart(at("chart-lag"), "Lag", "records", count, 2),
};
let points = [];

// Parts.

function choose() {
  const parts = ["overview", "edge", "processor", "letters"];
  const part = parts.find((name) => location.hash === `#${name}`) ?? "overview";
  for (const name of parts) at(`part-${name}`).hidden = name !== part;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${part}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (part === "letters") letters.shown();
}

function tile(name, value, note, tone) {
  return make("div", { class: `tile ${tone ?? ""}` }, make("span", { class: "name" }, name), make("b", {}, value), make("span", { class: "note" }, note));
}

function tiles(view, point) {
  const lag = (view.groups ?? []).reduce((all, group) => all + group.lag, 0);
  const lost = (view.groups ?? []).reduce((all, group) => all + group.lost, 0);
  const ready = view.nodes.filter((node) => node.state === "ready").length;
  const open = view.sinks.filter((sink) => sink.breakers.open > 0).map((sink) => sink.name);
  const waiting = view.letters?.waiting;
  const last = (value, format) => (value === undefined ? "–" : format(value));
  at("tiles").replaceChildren(
    tile("Received", last(point?.received, rate), "requests per second"),
    tile("Refused", last(point?.refused, rate), "requests per second"),
    tile("Delivered", last(point?.delivered, rate), "events per second"),
    tile("Lag", view.groups ? count(lag) : "–", lost > 0 ? `${count(lost)} lost to retention` : "records, all groups", lost > 0 ? "bad" : ""),
    tile("Breakers", open.length > 0 ? `${open.length} open` : "closed", open.length > 0 ? open.join(", ") : "all sinks", open.length > 0 ? "bad" : ""),
    tile("Dead letters", waiting === undefined ? "–" : count(waiting), "waiting", waiting > 0 ? "warn" : ""),
    tile("Nodes", `${ready} of ${view.nodes.length}`, "ready", ready < view.nodes.length ? "bad" : ""),
  );
}

function overview(view) {
  tiles(view, points[points.length - 1]);
  charts.throughput.draw(points, [
    { name: "received", of: (point) => point.received, tone: TONES[0] },
    { name: "delivered", of: (point) => point.delivered, tone: TONES[1] },
    { name: "refused", of: (point) => point.refused, tone: TONES[2] },
    { name: "dispatches failed", of: (point) => point.failed, tone: TONES[3] },
    { name: "dead", of: (point) => point.dead, tone: TONES[4] },
  ]);
  charts.latency.draw(points, [
    { name: "request p50", of: (point) => point.request_p50, tone: TONES[0] },
    { name: "request p99", of: (point) => point.request_p99, tone: TONES[2] },
    { name: "age at sink p50", of: (point) => point.age_p50, tone: TONES[1] },
    { name: "age at sink p99", of: (point) => point.age_p99, tone: TONES[3] },
  ]);
  const groups = [...new Set((view.groups ?? []).map((group) => group.group))];
  const prefix = at("prefix").textContent;
  const short = (group) => (group.startsWith(`${prefix}.`) ? group.slice(prefix.length + 1) : group);
  charts.lag.draw(
    points,
    groups.map((group, number) => ({ name: short(group), of: (point) => point.lag[group], tone: TONES[number % TONES.length] })),
  );
  const states = { ready: "ready", not_ready: "not ready", no_answer: "no answer" };
  const row = (node) => [node.url, node.kind, make("span", { class: `tag ${node.state === "ready" ? "good" : "bad"}` }, states[node.state]), node.why];
  put("nodes", table([left("Node"), left("Is"), left("State"), left("Why")], view.nodes.map(row), "no node was named: start the console with --node"));
}

const counted = (counts) =>
  Object.entries(counts)
    .sort(([, one], [, other]) => other.rate - one.rate || other.total - one.total)
    .map(([name, one]) => [name, count(one.total), rate(one.rate)]);
const quantiles = (name, one) => [name, seconds(one.p50), seconds(one.p95), seconds(one.p99)];

function edge(view) {
  const columns = [left("Outcome"), right("Since the nodes' starts"), right("Per second")];
  put("requests", table(columns, counted(view.edge.requests), "no requests yet"));
  const rows = [quantiles("request: from head to answer", view.edge.request_seconds), quantiles("Kafka: from record to acknowledgement", view.edge.ack_seconds)];
  put("latency", table([left(""), right("p50"), right("p95"), right("p99")], rows, ""));
  const sources = view.sources.flatMap((source) => {
    const signed = Object.entries(source.secrets).map(([secret, one]) => ["requests signed by", secret, one]);
    const opened = Object.entries(source.keys).map(([key, one]) => ["events opened by", key, one]);
    const of = ([use, key, one], number) => [
      number === 0 ? source.name : "",
      number === 0 ? source.sinks.join(", ") || "–" : "",
      use,
      key,
      one.total === 0 ? make("span", { class: "tag" }, "unused") : count(one.total),
      rate(one.rate),
    ];
    return [...signed, ...opened].map(of);
  });
  put("sources", table([left("Source"), left("Sinks"), left("Use"), left("Key"), right("Since the nodes' starts"), right("Per second")], sources, "no sources"));
  const named = (counts, kind) => counted(counts).map((row) => [`${kind}: ${row[0]}`, ...row.slice(1)]);
  const refused = [...named(view.edge.verification_failures, "not verified"), ...named(view.edge.rate_limited, "rate limit")];
  put("refusals", table([left("Why"), right("Since the nodes' starts"), right("Per second")], refused, "nothing was refused"));
}

function breaker({ closed, half_open, open }) {
  if (open > 0) return make("span", { class: "tag bad" }, open + half_open + closed > 1 ? `open on ${open}` : "open");
  if (half_open > 0) return make("span", { class: "tag warn" }, "half-open");
  return closed > 0 ? make("span", { class: "tag good" }, "closed") : "–";
}

function processor(view) {
  const of = (sink, outcome) => sink.records[outcome] ?? { total: 0, rate: 0 };
  const row = (sink) => [
    sink.name,
    rate(of(sink, "delivered").rate),
    count(of(sink, "delivered").total),
    count(of(sink, "repeat").total),
    rate(sum(sink.failures, (one) => one.rate)),
    count(of(sink, "dead").total),
    seconds(sink.age_seconds.p50),
    seconds(sink.age_seconds.p99),
    breaker(sink.breakers),
    count(sink.concurrency),
  ];
  const columns = [left("Sink"), right("Delivered/s"), right("Delivered"), right("Repeats"), right("Failed/s"), right("Dead"), right("Age p50"), right("Age p99"), left("Breaker"), right("At once")];
  put("sinks", table(columns, view.sinks.map(row), "no sinks"));
  const most = Math.max(1, ...view.sinks.flatMap((sink) => sink.lanes.map((lane) => lane.waiting)));
  const lanes = view.sinks.flatMap((sink) =>
    sink.lanes.map((lane, number) => [
      number === 0 ? sink.name : "",
      lane.delay,
      count(lane.waiting),
      make("meter", { min: 0, max: most, value: lane.waiting, "aria-label": `${lane.waiting} waiting` }),
    ]),
  );
  put("lanes", table([left("Sink"), left("Lane"), right("Waiting"), left("")], lanes, "Kafka did not say"));
  const groups = (view.groups ?? []).map((group) => {
    const behind = group.partitions.filter((partition) => partition.lag > 0).map((partition) => `${partition.partition}: ${count(partition.lag)}`);
    const shown = behind.length > 8 ? `${behind.length} partitions` : behind.join(", ");
    return [group.group, group.topic, count(group.lag), shown || "–", group.lost > 0 ? make("span", { class: "tag bad" }, count(group.lost)) : "0"];
  });
  put("groups", table([left("Group"), left("Topic"), right("Lag"), left("By partition"), right("Lost to retention")], groups, "Kafka did not say"));
  put("router", table([left("Outcome"), right("Since the nodes' starts"), right("Per second")], counted(view.router), "no records yet"));
}

function show(state) {
  const view = state.view;
  letters.tellJob(state.job);
  if (!view) return;
  points = points.concat(state.points).slice(-POINTS_MAX);
  at("troubles").hidden = view.troubles.length === 0;
  at("troubles").replaceChildren(...view.troubles.map((trouble) => make("li", {}, trouble)));
  at("pulse").textContent = `as of ${new Date(view.at_ms).toLocaleTimeString("en-GB")}`;
  at("pulse").classList.remove("stale");
  const waiting = view.letters?.waiting ?? 0;
  at("letters-count").hidden = waiting === 0;
  at("letters-count").textContent = count(waiting);
  overview(view);
  edge(view);
  processor(view);
}

async function look() {
  try {
    const since = points.length > 0 ? points[points.length - 1].at_ms : 0;
    show(await get(`/api/state?since=${since}`));
  } catch (error) {
    at("pulse").textContent = "the console does not answer";
    at("pulse").classList.add("stale");
  }
  setTimeout(look, EVERY_MS);
}

async function begin() {
  const session = await get("/api/session");
  setCsrf(session.csrf);
  at("prefix").textContent = session.prefix;
  letters.prepare(session);
  at("logout").addEventListener("click", async () => {
    await post("/api/logout", "");
    location.replace("/login");
  });
  window.addEventListener("hashchange", choose);
  choose();
  look();
}

begin();
