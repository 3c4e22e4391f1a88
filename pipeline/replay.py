"""A topic of `entity-created` events taken in once more, or for the first time, from where we say.

The records go through intake again, in its own batches and transactions: known events change
nothing, new ones become requests of source `backfill`. How far a replay has come is written down
in the same transaction, so it may be killed at any instruction and started again. It reads without
a consumer group: the workers' offsets stay where they are.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pipeline import replays
from pipeline.answers import Topics
from pipeline.batches import Intake, Understood
from pipeline.database import transact
from pipeline.dead_letters import DeadLetter
from pipeline.events import Record
from pipeline.intake import Recorded
from pipeline.reemission import Reemitted, reemit
from pipeline.replays import Counts, Replay
from pipeline.rules.lifecycle import RequestState
from pipeline.topic_reader import NotReplayable

Read = Understood | DeadLetter
Seen = Callable[[Sequence[DeadLetter], int], None]
"""Told after each batch what was no event in it, and how many offsets it moved on."""


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
