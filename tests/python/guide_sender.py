"""A sender as the usual tutorial has it: sign `json.dumps(envelope)`, hand the envelope to the HTTP client as `json=`.

What the client then puts on the wire is its own affair. `"mode": "content"` is the documented variant, which differs in
one line: it sends the bytes that it signed.
"""

import json
import ssl
import sys
import time

import httpx

import wire

order = json.load(sys.stdin)
secret = order["secret"].encode("utf-8")
key = bytes.fromhex(order["key"])

# Encrypt the payload, and put it into an envelope with its nonce.
envelope = wire.seal_native(key, order["event"])

# Sign the envelope.
timestamp = str(int(time.time()))
payload = json.dumps(envelope).encode("utf-8")
headers = {
    "Content-Type": "application/json",
    "X-Webhook-Signature": wire.signature(secret, timestamp, payload),
    "X-Webhook-Timestamp": timestamp,
    "X-Encryption-Nonce": envelope["nonce"],
}

# Send it, with the certificate checked.
verify = ssl.create_default_context(cafile=order["ca"])
with httpx.Client(verify=verify, trust_env=False, timeout=30) as client:
    if order["mode"] == "json":
        response = client.post(order["url"], json=envelope, headers=headers)
    else:
        response = client.post(order["url"], content=payload, headers=headers)

print(json.dumps({"httpx": httpx.__version__, "status": response.status_code, "body": response.json()}))
