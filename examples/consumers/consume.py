"""Prints the events of a Kafka sink's topic: python consume.py TOPIC. Needs confluent-kafka."""

import os
import sys

from confluent_kafka import Consumer

consumer = Consumer({
    "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP"],
    "group.id": os.environ.get("KAFKA_GROUP", "orders"),
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    # What a transactional sink has given up is not shown. A plain sink writes no transactions: nothing changes.
    "isolation.level": "read_committed",
})
consumer.subscribe([sys.argv[1]])
while True:
    record = consumer.poll(1.0)
    if record is None:
        continue
    if record.error():
        sys.exit(str(record.error()))
    headers = {name: value.decode() for name, value in record.headers()}
    # Where the effect is a change in a database, store ce_webhookid with it, so that a repeat changes nothing.
    print(headers["ce_webhookid"], headers["ce_id"], record.value().decode(), flush=True)
    # After the effect: whoever stops in between gets the event again.
    consumer.commit(record, asynchronous=False)
