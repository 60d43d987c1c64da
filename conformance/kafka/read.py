"""Reads topics as a consumer in Python would: confluent-kafka, and the CloudEvents SDK for what it finds.

    read.py TOPIC... --brokers HOST:PORT[,...] --count N [--timeout SECONDS]

Prints one line of JSON for each of the first N records: topic, partition, offset, key, headers, and `event`, which
is null where the record is no CloudEvent. Fails when N records have not come within the timeout.
"""

import argparse
import json
import time
import uuid

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, from_structured
from cloudevents.core.formats.json import JSONFormat
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition


def event_of(key, headers, value):
    # The SDK's own from_kafka takes any record with a ce_ header for binary. The Kafka binding of CloudEvents
    # decides by the content type, and allows such headers beside a structured event.
    content_type = headers.get("content-type", b"").decode()
    message = KafkaMessage(headers=headers, key=key, value=value)
    if content_type.startswith("application/cloudevents"):
        event = from_structured(message, JSONFormat())
    elif "ce_specversion" in headers:
        event = from_binary(message, JSONFormat())
    else:
        return None
    return json.loads(JSONFormat().write(event))


def line_of(record):
    pairs = record.headers() or []
    headers = dict(pairs)
    if len(headers) != len(pairs):
        raise ValueError(f"a header is repeated: {pairs}")
    return {
        "topic": record.topic(),
        "partition": record.partition(),
        "offset": record.offset(),
        "key": record.key() and record.key().decode(),
        "headers": {name: value.decode() for name, value in headers.items()},
        "event": event_of(record.key(), headers, record.value()),
    }


def partitions(consumer, topics, timeout):
    known = consumer.list_topics(timeout=timeout).topics
    missing = [topic for topic in topics if topic not in known]
    if missing:
        raise SystemExit(f"no topic {', '.join(missing)}")
    return [TopicPartition(topic, number, OFFSET_BEGINNING) for topic in topics for number in known[topic].partitions]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("topics", nargs="+", metavar="TOPIC")
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--count", required=True, type=int)
    parser.add_argument("--timeout", type=float, default=30)
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.timeout
    # A consumer must name a group; this one assigns itself its partitions and commits nothing.
    consumer = Consumer(
        {"bootstrap.servers": arguments.brokers, "group.id": f"read-{uuid.uuid4()}", "enable.auto.commit": False}
    )
    try:
        consumer.assign(partitions(consumer, arguments.topics, arguments.timeout))
        for number in range(arguments.count):
            record = consumer.poll(max(0, deadline - time.monotonic()))
            if record is None:
                raise SystemExit(f"{number} of {arguments.count} records came in {arguments.timeout} s")
            if record.error():
                raise KafkaException(record.error())
            print(json.dumps(line_of(record), ensure_ascii=False), flush=True)
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
