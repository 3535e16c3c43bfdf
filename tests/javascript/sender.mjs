// Node as a sender: `fetch`, and `node:https` for a header that is there twice. Good, and in each way that must be refused.
//
// The wire format is written down once more from its description alone: nothing here shares code with the project. For each
// variant a line of JSON: what was answered. The authority is trusted by way of NODE_EXTRA_CA_CERTS.

import { createCipheriv, createHmac, randomBytes } from "node:crypto";
import { request } from "node:https";
import { text } from "node:stream/consumers";

const order = JSON.parse(await text(process.stdin));

function sign(secret, timestamp, body) {
  return createHmac("sha256", secret).update(timestamp).update(".").update(body).digest("hex");
}

function signed(event, timestamp, secret = order.secret) {
  const nonce = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", Buffer.from(order.key, "hex"), nonce);
  const sealed = Buffer.concat([cipher.update(JSON.stringify(event)), cipher.final(), cipher.getAuthTag()]);
  const body = JSON.stringify({ encrypted: sealed.toString("base64"), nonce: nonce.toString("base64") });
  const headers = [
    ["content-type", "application/json"],
    ["x-webhook-signature", sign(secret, timestamp, body)],
    ["x-webhook-timestamp", timestamp],
    ["x-encryption-nonce", nonce.toString("base64")],
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

async function withFetch({ body, headers }) {
  const answer = await fetch(order.url, { method: "POST", body, headers });
  return { status: answer.status, body: await answer.json() };
}

// One line for each header, whatever its name.
async function withHttps({ body, headers }) {
  const answer = await new Promise((resolve, reject) => {
    const sending = request(order.url, { method: "POST", headers: [...headers.flat(), "host", "localhost", "content-length", `${Buffer.byteLength(body)}`] }, resolve);
    sending.on("error", reject);
    sending.end(body);
  });
  return { status: answer.statusCode, body: JSON.parse(await text(answer)) };
}

for (const name of order.variants) {
  const { status, body } = await (name === "duplicated" ? withHttps : withFetch)(variant(name));
  console.log(JSON.stringify({ variant: name, status, code: body.code ?? null, says: body.status ?? null }));
}
