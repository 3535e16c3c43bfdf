// Senders that sign with a library of Standard Webhooks: a sealed body, good, and in each way that must be refused.
//
// For each variant a line of JSON: what was answered, and whether the library itself would take what was sent. The authority
// is trusted by way of NODE_EXTRA_CA_CERTS, and the libraries are found by way of SEALSTREAM_NODE_MODULES.

import { randomBytes } from "node:crypto";
import { text } from "node:stream/consumers";

import { library, sealNative, sendAll } from "./wire.mjs";

const order = JSON.parse(await text(process.stdin));
const { Webhook } = await library(order.library);
const mine = new Webhook(order.secret);
const somebody = new Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");

function variant(name) {
  const event = { id: `evt-${order.client}-${name}`, variant: name };
  let body = JSON.stringify(name === "plaintext" ? event : sealNative(order.key, event));
  const timestamp = new Date(Date.now() - (name === "stale" ? 3_600_000 : 0));
  const message = `msg_${randomBytes(12).toString("hex")}${name === "dotted" ? ".1" : ""}`;
  let signature = (name === "forged" ? somebody : mine).sign(message, timestamp, body);
  if (name === "rotated") signature = `${somebody.sign(message, timestamp, body)} ${signature}`;
  if (name === "crowded") signature = `${`${somebody.sign(message, timestamp, body)} `.repeat(5)}${signature}`;
  if (name === "altered") body += " ";
  const prefix = name === "renamed" ? "svix" : "webhook";
  const headers = [
    ["content-type", "application/json"],
    [`${prefix}-id`, message],
    [`${prefix}-timestamp`, `${Math.floor(timestamp / 1000)}${name === "fractional" ? ".5" : ""}`],
    [`${prefix}-signature`, signature],
  ];
  // `fetch` joins the second with a comma and a space.
  if (name === "joined" || name === "duplicated") headers.push(headers[3]);
  return { body, headers };
}

function taken({ body, headers }) {
  try {
    mine.verify(body, Object.fromEntries(headers));
    return true;
  } catch {
    return false;
  }
}

await sendAll(order, variant, (request) => ({ taken: taken(request) }));
