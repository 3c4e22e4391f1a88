"""Events in, outcomes out, with librdkafka, whose own time is small beside what is measured."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

PARTITIONS = 4  # of a topic of ours, as of a world's
PATIENCE = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class Event:
    """A record of the input topic."""

    key: bytes
    value: bytes
    headers: list[tuple[str, str | bytes | None]]


def event(data: dict[str, Any]) -> Event:
    """A CloudEvent in binary mode with an id of its own."""
    upload = data["upload"]
    key = f"{upload['entityType']}:{upload['entityId']}"
    headers = {
        "ce_specversion": "1.0",
        "ce_id": str(uuid4()),
        "ce_source": "urn:cms",
        "ce_type": "cms.entity-created.v1",
        "ce_subject": key,
        "ce_time": "2026-11-24T10:00:00Z",
        "content-type": "application/json",
    }
    return Event(
        key.encode(),
        json.dumps(data, ensure_ascii=False).encode(),
        [(name, text.encode()) for name, text in headers.items()],
    )


class Traffic:
    """Sends to one topic and reads another from its present end."""

    def __init__(self, bootstrap: str, source: str, target: str) -> None:
        self._source = source
        options = {"bootstrap.servers": bootstrap}
        self._producer = Producer(
            options | {"acks": "all", "linger.ms": 0, "queue.buffering.max.messages": 1_000_000}
        )
        self._consumer = Consumer(
            options
            | {
                "group.id": f"benchmark-{uuid4().hex}",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
                "fetch.min.bytes": 1,
            }
        )
        partitions = self._consumer.list_topics(target).topics[target].partitions
        self._consumer.assign([TopicPartition(target, number, 0) for number in partitions])

    def send(self, events: Iterable[Event]) -> None:
        """Hand all to the broker; returns when it has acknowledged them."""
        for one in events:
            self._producer.produce(self._source, one.value, key=one.key, headers=one.headers)
            self._producer.poll(0)
        self._producer.flush()

    def read(self, number: int) -> list[Message]:
        """The next so many records, as soon as the last of them is there: nothing is waited for
        then. Raises `TimeoutError` when they do not come."""
        found: list[Message] = []
        deadline = time.monotonic() + PATIENCE
        while len(found) < number:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(found)} of {number} came within {PATIENCE:.0f} s")
            found += self._consumer.consume(min(number - len(found), 10_000), timeout=0.1)
        return found

    def exchange(self, one: Event) -> float:
        """Seconds from just before a record is sent until its answer has been read: the next record
        that comes, which has to have its key."""
        started = time.perf_counter()
        self.send([one])
        [answer] = self.read(1)
        seconds = time.perf_counter() - started
        if answer.key() != one.key:
            raise AssertionError(f"an answer to {answer.key()!r}, not to {one.key!r}")
        return seconds

    def close(self) -> None:
        self._consumer.close()


@contextmanager
def traffic(bootstrap: str, source: str, target: str) -> Iterator[Traffic]:
    """`Traffic`, closed afterwards."""
    made = Traffic(bootstrap, source, target)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def echo(bootstrap: str) -> Iterator[Traffic]:
    """Traffic through a new topic with nobody in between: what is sent is what is read."""
    name = f"bench-echo-{uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for created in admin.create_topics([NewTopic(name, PARTITIONS, 1)]).values():
        created.result()
    with traffic(bootstrap, name, name) as made:
        yield made
