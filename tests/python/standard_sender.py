"""Senders that sign with a library of Standard Webhooks: a sealed body, good, and in each way that must be refused.

For each variant a line of JSON: what was answered, and whether the library itself would take what was sent.
"""

import importlib
import json
import os
import ssl
import sys
from datetime import datetime, timedelta, timezone

import httpx

import wire

order = json.load(sys.stdin)
module = importlib.import_module(f"{order['library']}.webhooks")
mine = module.Webhook(order["secret"])
somebody = module.Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
key = bytes.fromhex(order["key"])


def variant(name):
    """Body and headers, as a list, of a request that is so."""
    event = {"id": f"evt-{order['client']}-{name}", "variant": name}
    body = json.dumps(event if name == "plaintext" else wire.seal_native(key, event))
    timestamp = datetime.now(timezone.utc) - timedelta(hours=1 if name == "stale" else 0)
    message = "msg_" + os.urandom(12).hex() + (".1" if name == "dotted" else "")
    signature = (somebody if name == "forged" else mine).sign(message, timestamp, body)
    if name == "rotated":
        signature = f"{somebody.sign(message, timestamp, body)} {signature}"
    if name == "joined":
        signature = f"{signature}, {signature}"
    if name == "crowded":
        signature = " ".join([somebody.sign(message, timestamp, body)] * 5 + [signature])
    if name == "altered":
        body += " "
    prefix = "svix" if name == "renamed" else "webhook"
    seconds = str(int(timestamp.timestamp())) + (".5" if name == "fractional" else "")
    headers = [
        ("content-type", "application/json"),
        (f"{prefix}-id", message),
        (f"{prefix}-timestamp", seconds),
        (f"{prefix}-signature", signature),
    ]
    if name == "duplicated":
        headers.append(headers[3])
    return body, headers


def taken(body, headers):
    """Whether the library takes it."""
    try:
        mine.verify(body, dict(headers))
        return True
    except (module.WebhookVerificationError, ValueError):
        return False


verify = ssl.create_default_context(cafile=order["ca"])
with httpx.Client(verify=verify, trust_env=False, timeout=30) as client:
    for name in order["variants"]:
        body, headers = variant(name)
        response = client.post(order["url"], content=body, headers=headers)
        answer = response.json()
        line = {"variant": name, "status": response.status_code, "code": answer.get("code"), "says": answer.get("status")}
        line["taken"] = taken(body, headers)
        print(json.dumps(line), flush=True)
