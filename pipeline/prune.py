"""Removing what nothing needs any more, in batches, each in a transaction of its own.

Kept for ever: pictures, logs, which entity got which picture, jobs with their attempts, dead
letters; and the identities of requests that a replay would buy again: those past the cache, those
that failed, and those whose picture the CMS has deleted.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pipeline import ledger

BATCH = 5_000

_OLD_REQUESTS = """
    imagepipe.requests r
    WHERE r.state = 'ready' AND r.finished_at < :before AND r.asset_id IS NOT NULL
      AND NOT coalesce(CAST(r.data ->> 'skipCache' AS boolean), false)
      AND NOT EXISTS (SELECT FROM imagepipe.outbox o
                      WHERE o.request_id = r.id AND o.published_at IS NULL)
      AND NOT EXISTS (SELECT FROM imagepipe.jobs j WHERE j.id = r.id AND j.state <> 'done')
"""

_OLD_MESSAGES = "imagepipe.outbox o WHERE o.published_at < :before"

_OLD_RESERVATIONS = """
    imagepipe.reservations r
    WHERE r.state <> 'held' AND r.at < least(
        CAST(:before AS timestamptz),
        clock_timestamp() - make_interval(
            secs => (SELECT coalesce(max(span_seconds), 0) FROM imagepipe.windows)))
"""


@dataclass(frozen=True, slots=True)
class Old:
    """How much there is to remove, or has been removed."""

    requests: int = 0
    messages: int = 0
    reservations: int = 0

    def __add__(self, other: "Old") -> "Old":
        return Old(
            self.requests + other.requests,
            self.messages + other.messages,
            self.reservations + other.reservations,
        )


async def count(connection: AsyncConnection, before: datetime) -> Old:
    """What is older than `before` and may go."""
    numbers = [
        await connection.scalar(text(f"SELECT count(*) FROM {rows}"), {"before": before})
        for rows in (_OLD_REQUESTS, _OLD_MESSAGES, _OLD_RESERVATIONS)
    ]
    return Old(*(number or 0 for number in numbers))


async def prune(engine: AsyncEngine, before: datetime, *, batch: int = BATCH) -> AsyncIterator[Old]:
    """Remove it, and say after each batch how much has gone in that one."""
    while (number := await _delete(engine, "requests", _OLD_REQUESTS, before, batch)) > 0:
        yield Old(requests=number)
    while (number := await _delete(engine, "outbox", _OLD_MESSAGES, before, batch)) > 0:
        yield Old(messages=number)
    while (number := await _delete_reservations(engine, before, batch)) > 0:
        yield Old(reservations=number)


async def _delete(engine: AsyncEngine, table: str, rows: str, before: datetime, batch: int) -> int:
    alias = rows.split()[1]
    async with engine.begin() as connection:
        done = await connection.execute(
            text(
                f"DELETE FROM imagepipe.{table} WHERE id IN"
                f" (SELECT {alias}.id FROM {rows} LIMIT :batch FOR UPDATE SKIP LOCKED)"
            ),
            {"before": before, "batch": batch},
        )
    return done.rowcount


async def _delete_reservations(engine: AsyncEngine, before: datetime, batch: int) -> int:
    """Only what every window has subtracted: the books are opened first. How far the ledger goes
    back is written down, so that nobody asks for a longer window."""
    async with engine.begin() as connection:
        opened = await ledger.open_books(connection)
        horizon = await connection.scalar(
            text("""
                SELECT least(CAST(:before AS timestamptz), CAST(:now AS timestamptz)
                    - make_interval(secs => (SELECT coalesce(max(span_seconds), 0)
                                             FROM imagepipe.windows)))
            """),
            {"before": before, "now": opened.now},
        )
        done = await connection.execute(
            text("""
                DELETE FROM imagepipe.reservations WHERE id IN (
                    SELECT id FROM imagepipe.reservations
                    WHERE state <> 'held' AND at < :horizon ORDER BY at LIMIT :batch)
            """),
            {"horizon": horizon, "batch": batch},
        )
        if done.rowcount:
            await connection.execute(
                text("""
                    UPDATE imagepipe.ledger_clock
                    SET history_from = greatest(history_from, :horizon)
                """),
                {"horizon": horizon},
            )
    return done.rowcount
