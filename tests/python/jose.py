"""The JWE format with a library of somebody else's: joserfc seals and sends, or opens what it is given."""

import json
import ssl
import sys
import time

import httpx
from joserfc import jwe
from joserfc.jwk import OctKey

import wire

order = json.load(sys.stdin)
key = OctKey.import_key(bytes.fromhex(order["key"]))
# `jti` and `aud` are claims replicated into the header (RFC 7519, section 5.3), which the library does not expect there.
registry = jwe.JWERegistry(strict_check_header=False)

if "token" in order:
    opened = jwe.decrypt_compact(order["token"], key, registry=registry)
    print(json.dumps({"payload": opened.plaintext.decode("utf-8"), "header": opened.protected}))
else:
    now = int(time.time())
    header = {"alg": "dir", "enc": "A256GCM", "kid": order["kid"], "jti": order["jti"], "aud": order["aud"], "iat": now}
    payload = json.dumps(order["event"]).encode("utf-8")
    token = jwe.encrypt_compact(header, payload, key, registry=registry).encode("ascii")
    headers = {
        "Content-Type": "application/jose",
        "X-Webhook-Signature": wire.signature(order["secret"].encode("utf-8"), str(now), token),
        "X-Webhook-Timestamp": str(now),
    }
    verify = ssl.create_default_context(cafile=order["ca"])
    with httpx.Client(verify=verify, trust_env=False, timeout=30) as client:
        response = client.post(order["url"], content=token, headers=headers)
    print(json.dumps({"status": response.status_code, "body": response.json()}))
