"""Readiness: whether the database, the broker and the topics are there, and the consumer moves.

Faust's consumer can hang while its process lives, so progress is watched from outside: by the
offsets that the group has committed.
"""

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from sqlalchemy.exc import DBAPIError

from pipeline import migrate, topics
from pipeline.settings import Settings

LOOK_AGAIN = 0.5  # seconds between two looks at the offsets

Part = Literal["database", "broker", "topics", "consumer"]


@dataclass(frozen=True, slots=True)
class Position:
    """Where the group stands in a partition: `next` is the first offset it has not recorded."""

    next: int
    end: int

    @property
    def lag(self) -> int:
        return self.end - self.next


Positions = Mapping[int, Position]  # by partition of the input topic


@dataclass(frozen=True, slots=True)
class Readiness:
    """What is not ready, and why; `lag` counts records not yet recorded, None when unknown."""

    troubles: Mapping[Part, str]
    lag: int | None

    @property
    def is_ready(self) -> bool:
        return not self.troubles


def standing_still(before: Positions, now: Positions) -> list[int]:
    """The partitions where records waited `before` and none has been recorded until `now`.

    Each for itself: one hung worker of several stops only its own partitions.
    """
    return [
        partition
        for partition, then in sorted(before.items())
        if then.lag > 0 and partition in now and now[partition].next <= then.next
    ]


def look(settings: Settings, *, within: float) -> Readiness:
    """Look at everything a worker needs, and for up to `within` seconds at whether it moves.

    Returns at once where no record waits. Blocks, so a server calls it in a thread.
    """
    troubles: dict[Part, str] = {}
    if trouble := _database_trouble(settings.database_url):
        troubles["database"] = trouble
    if not topics.reachable(settings):
        away = f"none answers at {settings.kafka_bootstrap_servers}"
        return Readiness(troubles | {"broker": away}, None)
    try:
        with closing(_consumer(settings)) as consumer:
            existing = consumer.topics()
            missing = [name for name in topics.names(settings) if name not in existing]
            if missing:
                troubles["topics"] = f"missing: {', '.join(missing)}"
            if settings.topic_entity_created in missing:
                return Readiness(troubles, None)
            still, lag = _watch(consumer, settings, within)
    except KafkaError as error:
        return Readiness(troubles | {"broker": str(error)}, None)
    if still:
        troubles["consumer"] = (
            f"group {settings.kafka_group} recorded nothing of partitions"
            f" {', '.join(map(str, still))} within {within:g} s, {lag} records wait"
        )
    return Readiness(troubles, lag)


def positions(settings: Settings) -> Positions:
    """Where the group stands in every partition of the input topic; raises `KafkaError`."""
    with closing(_consumer(settings)) as consumer:
        return _positions(consumer, settings.topic_entity_created)


def _database_trouble(url: str) -> str | None:
    try:
        revision = migrate.current(url)
    except DBAPIError as error:
        return " ".join(str(error.orig).split())
    if revision != migrate.newest():
        return f"it is at revision {revision}, run imagepipe migrate"
    return None


def _consumer(settings: Settings) -> KafkaConsumer:
    """A client that asks for the group's offsets without becoming a member of it."""
    options = topics.client_options(settings)
    return KafkaConsumer(**options, group_id=settings.kafka_group, enable_auto_commit=False)


def _watch(consumer: KafkaConsumer, settings: Settings, within: float) -> tuple[list[int], int]:
    """The partitions that stand still, and the lag of all, `within` seconds after the first look,
    or as soon as none stands still."""
    deadline = time.monotonic() + within
    before = now = _positions(consumer, settings.topic_entity_created)
    while (still := standing_still(before, now)) and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN)
        now = _positions(consumer, settings.topic_entity_created)
    return still, sum(position.lag for position in now.values())


def _positions(consumer: KafkaConsumer, topic: str) -> Positions:
    parts = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
    begins, ends = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
    found = {}
    for part in parts:
        # Nothing committed, or records gone since: it goes on where the partition begins.
        committed = consumer.committed(part) or 0
        found[part.partition] = Position(max(committed, begins[part]), ends[part])
    return found
