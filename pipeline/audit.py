"""The ledger checked against itself: running totals against rows, rows against attempts."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import ledger


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that does not add up: where, what is written there, what it should be."""

    where: str
    written: str
    expected: str


async def verify(connection: AsyncConnection) -> list[Difference]:
    """Recompute every window from the reservations, compare reservations with attempts, and find
    money that is held for nothing.

    Takes the ledger's lock, so nothing is reserved or settled meanwhile; changes nothing.
    """
    return [
        *await windows(connection),
        *await _reservations(connection),
        *await _held_for_nothing(connection),
    ]


async def windows(connection: AsyncConnection) -> list[Difference]:
    """Recompute every window; takes the ledger's lock."""
    await ledger.lock(connection)
    rows = await connection.execute(
        text(f"""
            SELECT w.scope, w.span_seconds, w.requests, w.microusd,
                   count(r.id) FILTER (WHERE r.requests = 1) AS real_requests,
                   coalesce(sum(r.microusd), 0) AS real_microusd
            FROM imagepipe.windows w
            LEFT JOIN imagepipe.reservations r ON r.at > w.upto AND {ledger.IN_SCOPE}
            GROUP BY w.scope, w.span_seconds, w.requests, w.microusd
            ORDER BY w.scope, w.span_seconds
        """)
    )
    return [
        Difference(
            f"window {row.scope}, {row.span_seconds} s",
            f"{row.requests} requests, {row.microusd} micro-dollars",
            f"{row.real_requests} requests, {row.real_microusd} micro-dollars",
        )
        for row in rows
        if (row.requests, row.microusd) != (row.real_requests, int(row.real_microusd))
    ]


async def _reservations(connection: AsyncConnection) -> list[Difference]:
    """An attempt's state decides its reservation's, and what was bought counts at its cost."""
    rows = await connection.execute(
        text("""
            SELECT a.id, a.state, a.cost_microusd, r.state AS held, r.microusd, r.requests,
                   r.bound_microusd
            FROM imagepipe.attempts a LEFT JOIN imagepipe.reservations r ON r.id = a.id
            WHERE a.started_at >= (SELECT history_from FROM imagepipe.ledger_clock) AND (
                  (a.state, coalesce(r.state, '')) NOT IN (
                    ('started', 'held'), ('bought', 'settled'), ('refused', 'released'),
                    ('unknown', 'unknown'))
               OR a.state = 'bought' AND r.microusd <> a.cost_microusd
               OR a.state = 'refused' AND (r.microusd, r.requests) <> (0, 0)
               OR a.state IN ('started', 'unknown') AND r.microusd <> r.bound_microusd
               OR a.state <> 'refused' AND r.requests <> 1)
            ORDER BY a.id
        """)
    )
    return [
        Difference(
            f"reservation {row.id}",
            f"{row.held}, {row.microusd} micro-dollars, {row.requests} requests",
            f"attempt is {row.state}, cost {row.cost_microusd}, bound {row.bound_microusd}",
        )
        for row in rows
    ]


async def _held_for_nothing(connection: AsyncConnection) -> list[Difference]:
    """Money is held for an attempt, or for a job that has not started yet."""
    rows = await connection.execute(
        text("""
            SELECT r.id, r.microusd FROM imagepipe.reservations r
            WHERE r.state = 'held'
              AND NOT EXISTS (SELECT FROM imagepipe.attempts a WHERE a.id = r.id)
              AND NOT EXISTS (SELECT FROM imagepipe.jobs j WHERE j.reserved = r.id)
            ORDER BY r.id
        """)
    )
    return [
        Difference(
            f"reservation {row.id}", f"held, {row.microusd} micro-dollars", "an attempt, or a job"
        )
        for row in rows
    ]
