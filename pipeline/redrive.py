"""Dead letters after a fix: found again on their topic, and sent through the input topic once more.

What was done with each is kept in `dead_letters`. A letter may be redriven twice after a crash
between the broker's acknowledgement and the mark: its event has the same identity both times.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from typing import Any, Literal
from uuid import UUID

from kafka import KafkaConsumer, TopicPartition
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import topics
from pipeline.dead_letters import DeadLetter
from pipeline.events import Record
from pipeline.messages import ATTEMPTS_HEADER, REASON_HEADERS, Message, original_place
from pipeline.settings import Settings

Fate = Literal["redriven", "dropped"]

SILENCE = 5_000  # milliseconds without a record before the topic's end is believed


async def find(
    connection: AsyncConnection,
    *,
    ids: Collection[UUID] = (),
    code: str | None = None,
    also_done: bool = False,
    limit: int | None = None,
) -> Sequence[Row[Any]]:
    """Dead letters, the newest first: those named, or all (of one code); open ones only unless
    `also_done`."""
    rows = await connection.execute(
        text("""
            SELECT * FROM imagepipe.dead_letters
            WHERE (CAST(:ids AS uuid[]) = '{}' OR id = ANY(:ids))
              AND (CAST(:code AS text) IS NULL OR code = :code)
              AND (:also_done OR fate IS NULL)
            ORDER BY recorded_at DESC, id LIMIT :limit
        """),
        {"ids": list(ids), "code": code, "also_done": also_done, "limit": limit},
    )
    return rows.all()


async def mark(connection: AsyncConnection, ids: Collection[UUID], fate: Fate) -> None:
    """Keep what was done with them."""
    await connection.execute(
        text("""
            UPDATE imagepipe.dead_letters SET fate = :fate, fate_at = clock_timestamp()
            WHERE id = ANY(:ids)
        """),
        {"ids": list(ids), "fate": fate},
    )


def records(settings: Settings, letters: Sequence[Row[Any]]) -> Iterator[tuple[UUID, Record]]:
    """The original records of dead letters, as far as Kafka still has them: from the dead letters'
    topic, or where they were too large for it, from where they came. Raises `KafkaError`."""
    wanted = {row.id for row in letters if row.whole}
    if wanted:
        yield from _from_their_topic(settings, wanted)
    for row in letters:
        if not row.whole:
            yield from _from_where_it_came(settings, row)


def again(record: Record, topic: str) -> Message:
    """The record as it goes through the input topic once more: without the reason's headers, but
    with the number of attempts so far."""
    headers = tuple(pair for pair in record.headers if pair[0] not in REASON_HEADERS)
    attempts = dict(record.headers).get(ATTEMPTS_HEADER) or b"1"
    return Message(topic, record.key, record.value, (*headers, (ATTEMPTS_HEADER, attempts)))


def _from_their_topic(settings: Settings, wanted: set[UUID]) -> Iterator[tuple[UUID, Record]]:
    with closing(_consumer(settings)) as consumer:
        for found in _all_of(consumer, settings.topic_dead_letters):
            headers = tuple(found.headers)
            place = original_place(headers)
            if place is None:
                continue
            record = Record(*place, found.key, found.value, headers)
            id_ = DeadLetter(record, "", "").id
            if id_ in wanted:
                wanted.discard(id_)
                yield id_, record
            if not wanted:
                return


def _from_where_it_came(settings: Settings, row: Row[Any]) -> Iterator[tuple[UUID, Record]]:
    part = TopicPartition(row.topic, row.partition)
    with closing(_consumer(settings)) as consumer:
        begins, ends = consumer.beginning_offsets([part]), consumer.end_offsets([part])
        if not begins[part] <= row.offset < ends[part]:
            return
        consumer.assign([part])
        consumer.seek(part, row.offset)
        for batch in consumer.poll(timeout_ms=SILENCE, max_records=1).values():
            for found in batch:
                headers = tuple(found.headers)
                record = Record(
                    found.topic,
                    found.partition,
                    found.offset,
                    found.timestamp,
                    found.key,
                    found.value,
                    headers,
                )
                if DeadLetter(record, "", "").id == row.id:
                    yield row.id, record


def _all_of(consumer: KafkaConsumer, topic: str) -> Iterator[Any]:
    """Every record that a topic has now."""
    parts = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
    ends = consumer.end_offsets(parts)
    left = {part for part in parts if consumer.beginning_offsets([part])[part] < ends[part]}
    consumer.assign(list(left))
    for part in left:
        consumer.seek_to_beginning(part)
    while left:
        polled = consumer.poll(timeout_ms=SILENCE)
        if not polled:
            return
        for part, batch in polled.items():
            yield from batch
            if batch[-1].offset + 1 >= ends[part]:
                left.discard(part)


def _consumer(settings: Settings) -> KafkaConsumer:
    options = topics.client_options(settings)
    return KafkaConsumer(**options, enable_auto_commit=False, auto_offset_reset="earliest")
