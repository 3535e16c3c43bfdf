"""Two HTTP clients of Python's as senders: `httpx` and `requests`, good, and in each way that must be refused.

For each variant a line of JSON: what was answered.
"""

import json
import ssl
import sys
import time

import httpx
import requests

import wire

order = json.load(sys.stdin)
secret = order["secret"].encode("utf-8")
key = bytes.fromhex(order["key"])


def signed(event, timestamp, by=secret):
    """Body and headers of an event."""
    envelope = wire.seal_native(key, event)
    body = json.dumps(envelope, separators=(",", ":")).encode("utf-8")
    headers = {
        "Content-Type": "application/json",
        "X-Webhook-Signature": wire.signature(by, timestamp, body),
        "X-Webhook-Timestamp": timestamp,
        "X-Encryption-Nonce": envelope["nonce"],
    }
    return body, headers


def variant(name):
    """Body and headers, as a list, of a request that is so."""
    now = int(time.time())
    event = {"id": f"evt-{order['client']}-{name}", "variant": name}
    if name == "forged":
        body, headers = signed(event, str(now), b"a secret of somebody else's")
    elif name == "stale":
        body, headers = signed(event, str(now - 3600))
    elif name == "altered":
        body, headers = signed(event, str(now))
        body = body.replace(b'"nonce"', b' "nonce"')
    else:
        body, headers = signed(event, str(now))
    headers = list(headers.items())
    if name == "duplicated":
        headers.append(headers[1])
    if name == "joined":
        # What becomes of a repeated header in clients that keep one line for each name.
        headers[1] = (headers[1][0], f"{headers[1][1]}, {headers[1][1]}")
    if name == "rotated":
        old = wire.signature(b"a secret that is no longer used", dict(headers)["X-Webhook-Timestamp"], body)
        headers[1] = (headers[1][0], f"{old},{headers[1][1]}")
    return body, headers


def with_httpx(body, headers):
    verify = ssl.create_default_context(cafile=order["ca"])
    with httpx.Client(verify=verify, trust_env=False, timeout=30) as client:
        response = client.post(order["url"], content=body, headers=headers)
    return response.status_code, response.json()


def with_requests(body, headers):
    response = requests.post(order["url"], data=body, headers=dict(headers), verify=order["ca"], timeout=30)
    return response.status_code, response.json()


post = {"httpx": with_httpx, "requests": with_requests}[order["client"]]
for name in order["variants"]:
    status, body = post(*variant(name))
    print(json.dumps({"variant": name, "status": status, "code": body.get("code"), "says": body.get("status")}), flush=True)
