"""A topic of `entity-created` events taken in once more, or for the first time, from where we say.

The records go through intake again, in its own batches and transactions: known events change
nothing, new ones become requests of source `backfill`. How far a replay has come is written down
in the same transaction, so it may be killed at any instruction and started again. It reads without
a consumer group: the workers' offsets stay where they are.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pipeline import replays, topics
from pipeline.answers import Topics
from pipeline.batches import Intake, Understood
from pipeline.database import transact
from pipeline.dead_letters import DeadLetter
from pipeline.events import Record
from pipeline.intake import Recorded
from pipeline.reemission import Reemitted, reemit
from pipeline.replays import Counts, Position, Replay
from pipeline.rules.lifecycle import RequestState
from pipeline.rules.replay_range import Range
from pipeline.settings import Settings

POLL = 500  # milliseconds
SILENCE = 30.0  # seconds without any progress before the broker is believed to be away

Read = Understood | DeadLetter
Seen = Callable[[Sequence[DeadLetter], int], None]
"""Told after each batch what was no event in it, and how many offsets it moved on."""


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
        asked = {part: round(instant.timestamp() * 1000) for part in parts}
        found = self._consumer.offsets_for_times(asked)
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


@dataclass(frozen=True, slots=True)
class Look:
    """What a replay would find. `new` events are not recorded yet; of the known ones, `finished`
    are ready or failed."""

    records: int = 0
    new: int = 0
    known: int = 0
    finished: int = 0
    undecodable: int = 0


async def look(
    engine: AsyncEngine, intake: Intake, batches: Iterable[Sequence[Record]], seen: Seen
) -> Look:
    """Read the records and compare them with what is recorded; writes nothing.

    An event that the topic holds twice is counted twice: memory does not grow with the topic.
    """
    total: Counter[str] = Counter()
    places: dict[int, int] = {}
    for batch in batches:
        read = [intake.read(record) for record in batch]
        ids = [one.prepared.id for one in read if isinstance(one, Understood)]
        async with engine.connect() as connection:
            states = await _states(connection, ids)
        total["records"] += len(read)
        total["undecodable"] += len(read) - len(ids)
        total["new"] += sum(id_ not in states for id_ in ids)
        total["known"] += sum(id_ in states for id_ in ids)
        total["finished"] += sum(
            states.get(id_) in (RequestState.READY, RequestState.FAILED) for id_ in ids
        )
        seen([one for one in read if isinstance(one, DeadLetter)], _moved(places, batch))
    return Look(**total)


async def _states(connection: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, str]:
    rows = await connection.execute(
        text("SELECT id, state FROM imagepipe.requests WHERE id = ANY(:ids)"), {"ids": list(ids)}
    )
    return {row.id: row.state for row in rows}


async def run(
    engine: AsyncEngine,
    intake: Intake,
    batches: Iterable[Sequence[Record]],
    replay: Replay,
    topics: Topics,
    *,
    reemitting: bool,
    seen: Seen,
    stopped: Callable[[], bool],
) -> bool:
    """Take the records in; returns whether all of them were, or `stopped` came before."""
    places: dict[int, int] = {position.partition: position.next for position in replay.positions}
    for batch in batches:
        letters: dict[UUID, DeadLetter] = {}

        async def along(
            connection: AsyncConnection, part: Sequence[Read], recorded: Recorded
        ) -> None:
            fresh = await _step(connection, replay, part, recorded, topics, reemitting=reemitting)
            letters.update({one.id: one for one in fresh if isinstance(one, DeadLetter)})  # noqa: B023

        if batch:
            await intake.keep([intake.read(record) for record in batch], along)
            seen(list(letters.values()), _moved(places, batch))
        if stopped():
            return False
    await transact(engine, lambda connection: replays.finish(connection, replay.id))
    return True


async def _step(
    connection: AsyncConnection,
    replay: Replay,
    part: Sequence[Read],
    recorded: Recorded,
    topics: Topics,
    *,
    reemitting: bool,
) -> Sequence[Read]:
    """What belongs to a batch besides intake itself: re-emissions, the position, the counts.

    Returns the records that had not been dealt with before. A commit whose answer got lost is run
    again, and so is a batch that another process with the same replay has taken meanwhile.
    """
    nexts = await replays.lock(connection, replay.id)
    if nexts.keys() != {position.partition for position in replay.positions}:
        raise NotReplayable(f"replay {replay.id} has been begun anew by another command meanwhile")
    fresh = [one for one in part if one.record.offset >= nexts[one.record.partition]]
    if not fresh:
        return fresh
    ids = {one.prepared.id: None for one in fresh if isinstance(one, Understood)}
    told = Reemitted(0, 0)
    if reemitting:
        told = await reemit(
            connection, ids, replay=replay.id, since=replay.started_at, topics=topics
        )
    understood = sum(isinstance(one, Understood) for one in fresh)
    found = Counts(
        records=len(fresh),
        new=recorded.new,
        known=max(0, understood - recorded.new),
        undecodable=len(fresh) - understood,
        reemitted=told.sent,
        gone=told.gone,
    )
    for one in fresh:
        place = one.record
        nexts[place.partition] = max(nexts[place.partition], place.offset + 1)
    await replays.advance(connection, replay.id, nexts, found)
    return fresh


def _moved(places: dict[int, int], batch: Sequence[Record]) -> int:
    """How many offsets the batch lies beyond the last one; notes where it ends."""
    moved = 0
    for record in batch:
        moved += record.offset + 1 - places.get(record.partition, record.offset)
        places[record.partition] = record.offset + 1
    return moved
