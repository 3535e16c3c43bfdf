"""Sends one event: python send.py < event.json. Needs httpx and cryptography."""

import base64
import hashlib
import hmac
import json
import os
import sys
import time

import httpx
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

URL = os.environ["SEALSTREAM_URL"]
SOURCE = os.environ["SEALSTREAM_SOURCE"]
SECRET = open(os.environ["SEALSTREAM_SECRET_FILE"], "rb").read().strip()
KEY = bytes.fromhex(open(os.environ["SEALSTREAM_KEY_FILE"]).read().strip().removeprefix("hex:"))
KEY_ID = os.environ.get("SEALSTREAM_KEY_ID", "k1")


def base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def seal(event_id: str, payload: bytes) -> bytes:
    """A JWE in compact form. Its header is readable, and nobody can change it."""
    header = {"alg": "dir", "enc": "A256GCM", "kid": KEY_ID, "jti": event_id, "aud": SOURCE}
    protected = base64url(json.dumps(header).encode())
    nonce = os.urandom(12)
    sealed = AESGCM(KEY).encrypt(nonce, payload, protected)
    return b".".join([protected, b"", base64url(nonce), base64url(sealed[:-16]), base64url(sealed[-16:])])


def post(client: httpx.Client, body: bytes) -> httpx.Response:
    timestamp = str(int(time.time()))
    signature = hmac.new(SECRET, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/jose",
        "X-Webhook-Timestamp": timestamp,
        "X-Webhook-Signature": signature,
    }
    return client.post(URL, content=body, headers=headers)


def send(event_id: str, payload: bytes, attempts: int = 8) -> httpx.Response:
    """Until it is received. Each attempt is sealed and signed anew, under the same event id."""
    with httpx.Client(timeout=30) as client:
        for attempt in range(attempts):
            try:
                answer = post(client, seal(event_id, payload))
                if answer.status_code not in (408, 429) and answer.status_code < 500:
                    return answer
                wait = float(answer.headers.get("Retry-After", 0))
            except httpx.TransportError:
                wait = 0.0
            time.sleep(max(wait, 0.1 * 2**attempt))
    raise SystemExit(f"{event_id} was not received: send it again later, under the same id")


event = json.load(sys.stdin)
answer = send(event["id"], json.dumps(event).encode())
print(answer.status_code, answer.text)
sys.exit(0 if answer.status_code == 200 else 1)
