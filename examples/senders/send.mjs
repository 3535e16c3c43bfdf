// Sends one event: node send.mjs < event.json. Node 18 or later, and nothing else.

import { createCipheriv, createHmac, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import { setTimeout as pause } from "node:timers/promises";

const { SEALSTREAM_URL: url, SEALSTREAM_SOURCE: source, SEALSTREAM_KEY_ID: keyId = "k1" } = process.env;
const secret = readFileSync(process.env.SEALSTREAM_SECRET_FILE, "utf8").trim();
const key = Buffer.from(readFileSync(process.env.SEALSTREAM_KEY_FILE, "utf8").trim().replace(/^hex:/, ""), "hex");

// A JWE in compact form. Its header is readable, and nobody can change it.
function seal(eventId, payload) {
  const header = { alg: "dir", enc: "A256GCM", kid: keyId, jti: eventId, aud: source };
  const shielded = Buffer.from(JSON.stringify(header)).toString("base64url");
  const nonce = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", key, nonce).setAAD(Buffer.from(shielded));
  const sealed = Buffer.concat([cipher.update(payload), cipher.final()]);
  const parts = [nonce, sealed, cipher.getAuthTag()].map((part) => part.toString("base64url"));
  return [shielded, "", ...parts].join(".");
}

function post(body) {
  const timestamp = `${Math.floor(Date.now() / 1000)}`;
  const headers = {
    "content-type": "application/jose",
    "x-webhook-timestamp": timestamp,
    "x-webhook-signature": createHmac("sha256", secret).update(`${timestamp}.${body}`).digest("hex"),
  };
  return fetch(url, { method: "POST", body, headers, signal: AbortSignal.timeout(30_000) });
}

// Until it is received. Each attempt is sealed and signed anew, under the same event id.
async function send(eventId, payload, attempts = 8) {
  for (let attempt = 0; attempt < attempts; attempt++) {
    let wait = 0;
    try {
      const answer = await post(seal(eventId, payload));
      if (![408, 429].includes(answer.status) && answer.status < 500) return answer;
      wait = Number(answer.headers.get("retry-after") ?? 0) * 1000;
    } catch (error) {
      console.error(error.message);
    }
    await pause(Math.max(wait, 100 * 2 ** attempt));
  }
  throw new Error(`${eventId} was not received: send it again later, under the same id`);
}

const event = JSON.parse(await text(process.stdin));
const answer = await send(event.id, JSON.stringify(event));
console.log(answer.status, await answer.text());
process.exitCode = answer.status === 200 ? 0 : 1;
