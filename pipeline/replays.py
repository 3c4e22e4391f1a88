"""Queries on `replays`: how far each has come, and what it has found so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Position:
    """One partition's part of a replay: from `first` up to, without it, `end`; `next` is the first
    offset that has not been dealt with."""

    partition: int
    first: int
    next: int
    end: int

    @property
    def left(self) -> int:
        return max(0, self.end - self.next)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a replay has found. `records` is the sum of `new`, `known` (the event had been recorded
    before) and `undecodable`; `gone`: ready outcomes whose picture there is no more."""

    records: int = 0
    new: int = 0
    known: int = 0
    undecodable: int = 0
    reemitted: int = 0
    gone: int = 0


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay that was begun; `positions` in the order of the partitions."""

    id: str
    topic: str
    options: str
    started_at: datetime
    finished_at: datetime | None
    counts: Counts
    positions: tuple[Position, ...]


_COUNTS = "records, new, known, undecodable, reemitted, gone"


async def find(connection: AsyncConnection, id_: str) -> Replay | None:
    """The replay with this id, if it was ever begun."""
    row = (
        await connection.execute(
            text(f"""
                SELECT id, topic, options, started_at, finished_at, {_COUNTS}
                FROM imagepipe.replays WHERE id = :id
            """),
            {"id": id_},
        )
    ).one_or_none()
    if row is None:
        return None
    positions = await connection.execute(
        text("""
            SELECT partition, first_offset, next_offset, end_offset
            FROM imagepipe.replay_positions WHERE replay_id = :id ORDER BY partition
        """),
        {"id": id_},
    )
    return Replay(
        row.id,
        row.topic,
        row.options,
        row.started_at,
        row.finished_at,
        Counts(*row[5:]),
        tuple(Position(*position) for position in positions),
    )


async def begin(
    connection: AsyncConnection, id_: str, topic: str, options: str, positions: Sequence[Position]
) -> None:
    """Write a replay down, in the place of an earlier one with its id."""
    await connection.execute(text("DELETE FROM imagepipe.replays WHERE id = :id"), {"id": id_})
    await connection.execute(
        text("INSERT INTO imagepipe.replays (id, topic, options) VALUES (:id, :topic, :options)"),
        {"id": id_, "topic": topic, "options": options},
    )
    await connection.execute(
        text("""
            INSERT INTO imagepipe.replay_positions
                (replay_id, partition, first_offset, next_offset, end_offset)
            SELECT :id, * FROM unnest(
                CAST(:partitions AS integer[]), CAST(:firsts AS bigint[]),
                CAST(:nexts AS bigint[]), CAST(:ends AS bigint[]))
        """),
        {
            "id": id_,
            "partitions": [position.partition for position in positions],
            "firsts": [position.first for position in positions],
            "nexts": [position.next for position in positions],
            "ends": [position.end for position in positions],
        },
    )


async def lock(connection: AsyncConnection, id_: str) -> dict[int, int]:
    """The next offset of each partition, nobody else's to move until the transaction ends."""
    rows = await connection.execute(
        text("""
            SELECT partition, next_offset FROM imagepipe.replay_positions
            WHERE replay_id = :id ORDER BY partition FOR UPDATE
        """),
        {"id": id_},
    )
    return {row.partition: row.next_offset for row in rows}


async def advance(
    connection: AsyncConnection, id_: str, nexts: Mapping[int, int], found: Counts
) -> Counts:
    """Move the positions on and add what was found there; returns all that was found so far."""
    await connection.execute(
        text("""
            UPDATE imagepipe.replay_positions p
            SET next_offset = greatest(p.next_offset, new.next_offset)
            FROM unnest(CAST(:partitions AS integer[]), CAST(:nexts AS bigint[]))
                AS new (partition, next_offset)
            WHERE p.replay_id = :id AND p.partition = new.partition
        """),
        {"id": id_, "partitions": list(nexts), "nexts": list(nexts.values())},
    )
    row = await connection.execute(
        text(f"""
            UPDATE imagepipe.replays
            SET records = records + :records, new = new + :new, known = known + :known,
                undecodable = undecodable + :undecodable, reemitted = reemitted + :reemitted,
                gone = gone + :gone
            WHERE id = :id RETURNING {_COUNTS}
        """),
        {
            "id": id_,
            "records": found.records,
            "new": found.new,
            "known": found.known,
            "undecodable": found.undecodable,
            "reemitted": found.reemitted,
            "gone": found.gone,
        },
    )
    return Counts(*row.one())


async def finish(connection: AsyncConnection, id_: str) -> None:
    """Everything has been read. Offsets without a record (compacted, or a transaction's marks) may
    be left at the end."""
    await connection.execute(
        text("""
            UPDATE imagepipe.replay_positions SET next_offset = greatest(next_offset, end_offset)
            WHERE replay_id = :id
        """),
        {"id": id_},
    )
    await connection.execute(
        text("UPDATE imagepipe.replays SET finished_at = clock_timestamp() WHERE id = :id"),
        {"id": id_},
    )
