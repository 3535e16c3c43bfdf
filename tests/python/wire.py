"""The wire format, written down once more from its description alone: nothing here shares code with the project."""

import base64
import hashlib
import hmac
import json
import os
import re
import time

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOLERANCE_S = 300


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over timestamp, dot, body; lower-case hex."""
    return hmac.new(secret, timestamp.encode("ascii") + b"." + body, hashlib.sha256).hexdigest()


def seal_native(key: bytes, event: dict) -> dict:
    """AES-256-GCM under a fresh nonce, in the members `encrypted` and `nonce`."""
    nonce = os.urandom(12)
    sealed = AESGCM(key).encrypt(nonce, json.dumps(event).encode("utf-8"), None)
    return {
        "encrypted": base64.b64encode(sealed).decode("ascii"),
        "nonce": base64.b64encode(nonce).decode("ascii"),
    }


class Refused(Exception):
    """The request is not one of the sender's."""


def verify(headers, body: bytes, secret: bytes) -> None:
    """Accepts a request that was signed with the secret within the last minutes."""

    def once(name):
        values = headers.get_all(name) or []
        if len(values) != 1:
            raise Refused(f"{name} is there {len(values)} times")
        return values[0]

    timestamp = once("X-Webhook-Timestamp")
    if not re.fullmatch(r"[1-9][0-9]{9,10}", timestamp, re.ASCII):
        raise Refused("the timestamp is outside its grammar")
    shown = once("X-Webhook-Signature").split(",")
    if not 1 <= len(shown) <= 5:
        raise Refused("there are too many signatures")
    expected = signature(secret, timestamp, body)
    found = False
    for one in shown:
        match = re.fullmatch(r"(?:v1=|sha256=)?([0-9a-f]{64})", one)
        if not match:
            raise Refused("a signature is outside its grammar")
        found |= hmac.compare_digest(match.group(1), expected)
    if not found:
        raise Refused("no signature fits")
    if abs(int(time.time()) - int(timestamp)) > TOLERANCE_S:
        raise Refused("the timestamp is out of tolerance")


def open_native(headers, body: bytes, keys: dict) -> bytes:
    """The payload of a native envelope, with whichever key opens it."""
    envelope = json.loads(body)
    if set(envelope) != {"encrypted", "nonce"} or headers["X-Encryption-Nonce"] != envelope["nonce"]:
        raise Refused("the envelope is not one")
    nonce = base64.b64decode(envelope["nonce"], validate=True)
    sealed = base64.b64decode(envelope["encrypted"], validate=True)
    for key in keys.values():
        try:
            return AESGCM(key).decrypt(nonce, sealed, None)
        except Exception:  # the next key, if there is one
            continue
    raise Refused("no key opens it")


def open_jwe(body: bytes, keys: dict, audience: str) -> tuple[bytes, dict]:
    """The payload and the protected header of a JWE in compact form, `dir` and `A256GCM` (RFC 7516)."""

    def unpadded(text):
        if "=" in text:
            raise Refused("a part is padded")
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    protected, wrapped_key, nonce, ciphertext, tag = body.decode("ascii").split(".")
    header = json.loads(unpadded(protected))
    if header["alg"] != "dir" or header["enc"] != "A256GCM" or wrapped_key or header["aud"] != audience:
        raise Refused(f"the header {header} is not for us")
    sealed = unpadded(ciphertext) + unpadded(tag)
    plaintext = AESGCM(keys[header["kid"]]).decrypt(unpadded(nonce), sealed, protected.encode("ascii"))
    return plaintext, header
