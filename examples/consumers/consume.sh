#!/bin/sh
# Prints the events of a Kafka sink's topic: consume.sh TOPIC. Needs kcat. -u: each as it comes.
exec kcat -b "$KAFKA_BOOTSTRAP" -C -u -q -X isolation.level=read_committed -t "$1" -f '%h %s\n'
