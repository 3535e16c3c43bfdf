// The wire format, written down once more from its description alone: nothing here shares code with the project.

import { createCipheriv, createHmac, randomBytes } from "node:crypto";
import { request } from "node:https";
import { createRequire } from "node:module";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

// A library of the tests, of either kind of module. It is found by way of SEALSTREAM_NODE_MODULES.
export async function library(name) {
  return import(pathToFileURL(createRequire(process.env.SEALSTREAM_NODE_MODULES).resolve(name)));
}

// HMAC-SHA256 over timestamp, dot, body; lower-case hex.
export function sign(secret, timestamp, body) {
  return createHmac("sha256", secret).update(timestamp).update(".").update(body).digest("hex");
}

// AES-256-GCM under a fresh nonce, in the members `encrypted` and `nonce`.
export function sealNative(key, event) {
  const nonce = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", Buffer.from(key, "hex"), nonce);
  const sealed = Buffer.concat([cipher.update(JSON.stringify(event)), cipher.final(), cipher.getAuthTag()]);
  return { encrypted: sealed.toString("base64"), nonce: nonce.toString("base64") };
}

export async function withFetch(url, { body, headers }) {
  const answer = await fetch(url, { method: "POST", body, headers });
  return { status: answer.status, body: await answer.json() };
}

// One line for each header, also where a name is there twice.
export async function withHttps(url, { body, headers }) {
  const all = [...headers.flat(), "host", "localhost", "content-length", `${Buffer.byteLength(body)}`];
  const answer = await new Promise((resolve, reject) => {
    const sending = request(url, { method: "POST", headers: all }, resolve);
    sending.on("error", reject);
    sending.end(body);
  });
  return { status: answer.statusCode, body: JSON.parse(await text(answer)) };
}

// Sends each variant, and tells in a line of JSON what was answered, and what else there is to say of the request.
export async function sendAll(order, variant, more = () => ({})) {
  for (const name of order.variants) {
    const send = name === "duplicated" ? withHttps : withFetch;
    const request = variant(name);
    const { status, body } = await send(order.url, request);
    const line = { variant: name, status, code: body.code ?? null, says: body.status ?? null, ...more(request) };
    console.log(JSON.stringify(line));
  }
}
