"""Requests that somebody waits for over HTTP, and what becomes of them when nobody does any more.

A client that does not want to queue has its request attended: the API says every few seconds that
the client is still there. Once the job has started it goes on, whoever has left. What has not
started `ABSENT_FOR` seconds after its client vanished, or the whole API, ends as abandoned, and
the money held for it is released.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import ledger, refusals
from pipeline.answers import Topics
from pipeline.ledger import Settlement
from pipeline.refusals import ABANDONED
from pipeline.requests import ASKER, Asker
from pipeline.rules.lifecycle import ReservationState

ABSENT_FOR = 10.0  # seconds


async def attend(connection: AsyncConnection, ids: Sequence[UUID]) -> None:
    """The clients of these requests are there: they wait for a start. One that has started needs
    nobody any more."""
    await connection.execute(
        text("""
            UPDATE imagepipe.requests r
            SET attended_until = clock_timestamp() + make_interval(secs => :seconds)
            FROM imagepipe.jobs j
            WHERE r.id = ANY(:ids) AND r.state = 'waiting' AND j.id = r.job_id
              AND j.state = 'queued'
        """),
        {"ids": list(ids), "seconds": ABSENT_FOR},
    )


async def still_there(connection: AsyncConnection, ids: Sequence[UUID]) -> None:
    """`attend` once more, those that have not started yet; who is locked is being dealt with."""
    await connection.execute(
        text("""
            UPDATE imagepipe.requests
            SET attended_until = clock_timestamp() + make_interval(secs => :seconds)
            WHERE id IN (
                SELECT id FROM imagepipe.requests
                WHERE id = ANY(:ids) AND state = 'waiting' AND attended_until IS NOT NULL
                ORDER BY sequence FOR NO KEY UPDATE SKIP LOCKED)
        """),
        {"ids": list(ids), "seconds": ABSENT_FOR},
    )


async def park(connection: AsyncConnection, request_id: UUID) -> None:
    """The client has been told where to ask: the request stays, whether it has started or not."""
    await connection.execute(
        text("UPDATE imagepipe.requests SET attended_until = NULL WHERE id = :id"),
        {"id": request_id},
    )


async def clear(connection: AsyncConnection, topics: Topics) -> int:
    """End what was abandoned before it started, and release money that no job waits with any
    more; returns how many requests ended."""
    rows = await connection.execute(
        text(f"""
            SELECT r.job_id, {ASKER}
            FROM imagepipe.requests r JOIN imagepipe.jobs j ON j.id = r.job_id
            WHERE r.state = 'waiting' AND r.attended_until < clock_timestamp()
              AND j.state = 'queued'
            ORDER BY j.id, r.sequence FOR NO KEY UPDATE OF j, r SKIP LOCKED
        """)
    )
    abandoned: dict[UUID, list[Asker]] = {}
    for row in rows:
        abandoned.setdefault(row.job_id, []).append(Asker(*row[1:]))
    for job_id, askers in abandoned.items():
        await refusals.refuse(connection, job_id, askers, ABANDONED, topics)
    await refusals.end_deserted(connection, list(abandoned), ABANDONED)
    await _release(connection)
    return sum(map(len, abandoned.values()))


async def _release(connection: AsyncConnection) -> None:
    """A reservation is kept for a queued job while somebody waits for its start.

    Two statements: whoever joins a job locks it first, so what is read after the lock is true.
    """
    locked = await connection.scalars(
        text("""
            SELECT id FROM imagepipe.jobs WHERE reserved IS NOT NULL
            ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
        """)
    )
    rows = await connection.execute(
        text("""
            SELECT j.id, j.reserved FROM imagepipe.jobs j
            WHERE j.id = ANY(:locked) AND (j.state <> 'queued' OR NOT EXISTS (
                SELECT FROM imagepipe.requests r
                WHERE r.job_id = j.id AND r.state = 'waiting'
                  AND r.attended_until >= clock_timestamp()))
        """),
        {"locked": list(locked)},
    )
    unused = {row.id: row.reserved for row in rows}
    if not unused:
        return
    released = ReservationState.RELEASED
    await ledger.settle(connection, [Settlement(id_, released, 0) for id_ in unused.values()])
    await connection.execute(
        text("UPDATE imagepipe.jobs SET reserved = NULL WHERE id = ANY(:ids)"),
        {"ids": list(unused)},
    )
