"""Standard Webhooks by two libraries of other people's: signs messages, and verifies signatures of ours.

For each message a line of JSON: the library's own signature, and whether it takes the one that it was given.
"""

import importlib
import json
import sys
from datetime import datetime, timezone

order = json.load(sys.stdin)
module = importlib.import_module(f"{order['library']}.webhooks")
webhook = module.Webhook(order["secret"])

for message in order["messages"]:
    timestamp = datetime.fromtimestamp(message["timestamp"], tz=timezone.utc)
    headers = {
        "webhook-id": message["id"],
        "webhook-timestamp": str(message["timestamp"]),
        "webhook-signature": message["signature"],
    }
    try:
        webhook.verify(message["body"], headers)
        verifies = True
    except (module.WebhookVerificationError, ValueError):
        # The second is what the libraries say of a signature without a comma.
        verifies = False
    signed = webhook.sign(message["id"], timestamp, message["body"])
    print(json.dumps({"signed": signed, "verifies": verifies}), flush=True)
