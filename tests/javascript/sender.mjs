// Node as a sender: `fetch`, and `node:https` for a header that is there twice. Good, and in each way that must be refused.
//
// For each variant a line of JSON: what was answered. The authority is trusted by way of NODE_EXTRA_CA_CERTS.

import { text } from "node:stream/consumers";

import { sealNative, sendAll, sign } from "./wire.mjs";

const order = JSON.parse(await text(process.stdin));

function signed(event, timestamp, secret = order.secret) {
  const envelope = sealNative(order.key, event);
  const body = JSON.stringify(envelope);
  const headers = [
    ["content-type", "application/json"],
    ["x-webhook-signature", sign(secret, timestamp, body)],
    ["x-webhook-timestamp", timestamp],
    ["x-encryption-nonce", envelope.nonce],
  ];
  return { body, headers };
}

function variant(name) {
  const now = Math.floor(Date.now() / 1000);
  const event = { id: `evt-fetch-${name}`, variant: name };
  const made = {
    forged: () => signed(event, `${now}`, "a secret of somebody else's"),
    stale: () => signed(event, `${now - 3600}`),
    milliseconds: () => signed(event, `${Date.now()}`),
  }[name] ?? (() => signed(event, `${now}`));
  const { body, headers } = made();
  if (name === "altered") return { body: body.replace(",", ", "), headers };
  // What `Headers` makes of a second one: it joins them with a comma and a space.
  if (name === "joined" || name === "duplicated") headers.push(headers[1]);
  if (name === "rotated") headers[1][1] = `${"0".repeat(64)},${headers[1][1]}`;
  return { body, headers };
}

await sendAll(order, variant);
