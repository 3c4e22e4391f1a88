"""Reads parts of a topic by offset or time, streaming, without a consumer group."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError

from pipeline import topics
from pipeline.events import Record
from pipeline.replays import Position
from pipeline.rules.replay_range import Range
from pipeline.settings import Settings

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
POLL = 500  # milliseconds
SILENCE = 30.0  # seconds without any progress before the broker is believed to be away


class NotReplayable(Exception):
    """This topic, or this part of it, is not there; the message says what is."""


class Reader:
    """Reads parts of one topic, without a group, from a broker that is there."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._topic = topic
        self._consumer = KafkaConsumer(
            **topics.client_options(settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def positions(self, range_: Range, now: datetime) -> tuple[Position, ...]:
        """Where the range begins and ends at present; raises `NotReplayable` or `KafkaError`."""
        parts = self._parts(range_)
        begins, ends = self._consumer.beginning_offsets(parts), self._consumer.end_offsets(parts)
        named = dict(range_.offsets)
        since = now - range_.back if range_.back is not None else range_.since
        starts = begins if since is None else self._at(parts, since, ends)
        stops = ends if range_.until is None else self._at(parts, range_.until, ends)
        found = []
        for part in parts:
            start = named.get(part.partition, starts[part])
            if start > ends[part]:
                raise NotReplayable(
                    f"partition {part.partition} of {self._topic} ends before offset"
                    f" {start}; for example --from-offset {part.partition}:{begins[part]}"
                )
            start = max(start, begins[part])
            found.append(Position(part.partition, start, start, max(start, stops[part])))
        return tuple(found)

    def check(self, positions: Sequence[Position]) -> int:
        """How many of the records still to be read Kafka has removed meanwhile; raises
        `NotReplayable` for a topic that is another one than when the replay began."""
        parts = [TopicPartition(self._topic, position.partition) for position in positions]
        there = {part.partition for part in self._parts(Range())}
        if not there.issuperset(part.partition for part in parts):
            raise NotReplayable(f"{self._topic} has lost partitions since this replay began")
        begins, ends = self._consumer.beginning_offsets(parts), self._consumer.end_offsets(parts)
        removed = 0
        for part, position in zip(parts, positions, strict=True):
            if ends[part] < position.end:
                raise NotReplayable(
                    f"{self._topic} has been made anew since this replay began: partition"
                    f" {part.partition} ends at {ends[part]}, not at {position.end}; add --restart"
                )
            removed += max(0, min(begins[part], position.end) - position.next)
        return removed

    def batches(self, positions: Sequence[Position], size: int) -> Iterator[list[Record]]:
        """What is left of the parts, at most `size` records at a time, and twice a second nothing
        while nothing comes; raises `KafkaError`, also when that lasts for half a minute."""
        left = {TopicPartition(self._topic, p.partition): p.end for p in positions if p.left}
        self._consumer.assign(list(left))
        for position in positions:
            if position.left:
                self._consumer.seek(TopicPartition(self._topic, position.partition), position.next)
        places: dict[TopicPartition, int | None] = {}
        moved = time.monotonic()
        while left:
            polled = self._consumer.poll(timeout_ms=POLL, max_records=size)
            batch = [
                _record(found)
                for part, records in polled.items()
                for found in records
                if found.offset < left.get(part, 0)
            ]
            yield batch
            before = places
            # Beyond the last record there may be marks of transactions: the position passes them.
            places = {part: self._consumer.position(part, timeout_ms=POLL) for part in left}
            for part, place in places.items():
                if place is not None and place >= left[part]:
                    del left[part]
                    self._consumer.pause(part)
            if batch or places != before:
                moved = time.monotonic()
            elif time.monotonic() - moved > SILENCE:
                raise KafkaTimeoutError(f"nothing was read of {self._topic} for {SILENCE:.0f} s")

    def _parts(self, range_: Range) -> list[TopicPartition]:
        if self._topic not in self._consumer.topics():
            raise NotReplayable(f"there is no topic {self._topic}")
        there = self._consumer.partitions_for_topic(self._topic)
        wanted = {partition for partition, _ in range_.offsets} or set(range_.partitions) or there
        if missing := wanted - there:
            raise NotReplayable(
                f"{self._topic} has no partition {min(missing)}, only 0 to {max(there)}"
            )
        return [TopicPartition(self._topic, partition) for partition in sorted(wanted)]

    def _at(
        self, parts: Sequence[TopicPartition], instant: datetime, ends: dict[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """The first offset at or after an instant; the end where there is none."""
        milliseconds = -((EPOCH - instant) // timedelta(milliseconds=1))  # rounded up
        found = self._consumer.offsets_for_times(dict.fromkeys(parts, milliseconds))
        return {part: found[part].offset if found.get(part) else ends[part] for part in parts}


def _record(found: Any) -> Record:
    return Record(
        topic=found.topic,
        partition=found.partition,
        offset=found.offset,
        timestamp_ms=found.timestamp,
        key=found.key,
        value=found.value,
        headers=tuple(found.headers),
    )
