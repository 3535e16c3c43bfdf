// Standard Webhooks by two libraries of other people's: signs messages, and verifies signatures of ours.
//
// For each message a line of JSON: the library's own signature, and whether it takes the one that it was given. The libraries
// are found by way of SEALSTREAM_NODE_MODULES.

import { text } from "node:stream/consumers";

import { library } from "./wire.mjs";

const order = JSON.parse(await text(process.stdin));
const { Webhook, WebhookVerificationError } = await library(order.library);
const webhook = new Webhook(order.secret);

for (const { id, timestamp, body, signature } of order.messages) {
  let verifies = true;
  try {
    webhook.verify(body, { "webhook-id": id, "webhook-timestamp": `${timestamp}`, "webhook-signature": signature });
  } catch (error) {
    if (!(error instanceof WebhookVerificationError)) throw error;
    verifies = false;
  }
  console.log(JSON.stringify({ signed: webhook.sign(id, new Date(timestamp * 1000), body), verifies }));
}
