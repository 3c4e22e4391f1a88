"""What an operator wants to see: windows, queue, provider, and days. Read without locks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import ledger
from pipeline.rules.limits import Limit, Purchase


@dataclass(frozen=True, slots=True)
class LimitReport:
    """A limit and its window. `frees_at`: when another picture fits; None: now, or never.
    `next_frees_at`: when the oldest of the requests in the window leaves it, if there is any."""

    limit: Limit
    used_requests: int
    used_microusd: int
    blocked: bool
    frees_at: datetime | None
    next_frees_at: datetime | None


@dataclass(frozen=True, slots=True)
class QueueReport:
    """Jobs by state; `waits_until`: when the head of the queue may go, if a limit holds it."""

    queued: int
    generating: int
    generated: int
    waits_for: str | None
    waits_until: datetime | None
    refused_uploads: int
    spool_bytes: int
    unpublished: int


@dataclass(frozen=True, slots=True)
class DayReport:
    """One calendar day: attempts that ended, money that counts, requests answered for nothing and
    what their pictures had cost."""

    day: date
    success: int
    failed: int
    microusd: int
    cached: int
    saved_microusd: int

    @property
    def count(self) -> int:
        return self.success + self.failed


@dataclass(frozen=True, slots=True)
class CircuitReport:
    """A model that nobody calls; `until` is None when an operator has to say go on."""

    model: str
    code: str
    message: str
    until: datetime | None


async def limits(
    connection: AsyncConnection, now: datetime, typical_microusd: int
) -> list[LimitReport]:
    """Every limit with what counts in its window at `now`, computed from the ledger itself.

    `typical_microusd`: the upper bound of a picture with default options.
    """
    reports = []
    for limit in await ledger.read_limits(connection):
        used = await ledger.count(connection, limit, now)
        blocked = not limit.has_room(used.requests, used.microusd, typical_microusd)
        frees_at = None
        if blocked:
            purchase = Purchase("live", "listing", typical_microusd)
            frees_at = await ledger.room_at(connection, limit, purchase, now)
        span = timedelta(seconds=limit.span_seconds)
        leaves_at = used.oldest_at and used.oldest_at + span
        reports.append(
            LimitReport(limit, used.requests, used.microusd, blocked, frees_at, leaves_at)
        )
    return reports


async def queue(
    connection: AsyncConnection, now: datetime, reports: Sequence[LimitReport]
) -> QueueReport:
    """What is under way, and what holds its head."""
    row = (
        await connection.execute(
            text("""
                SELECT
                    count(*) FILTER (WHERE state = 'queued') AS queued,
                    count(*) FILTER (WHERE state = 'generating') AS generating,
                    count(*) FILTER (WHERE state = 'generated') AS generated,
                    count(*) FILTER (WHERE state = 'generated' AND error_code IS NOT NULL)
                        AS refused_uploads,
                    (SELECT coalesce(sum(octet_length(data)), 0) FROM imagepipe.image_spool)
                        AS spool_bytes,
                    (SELECT count(*) FROM imagepipe.outbox WHERE published_at IS NULL)
                        AS unpublished
                FROM imagepipe.jobs WHERE state IN ('queued', 'generating', 'generated')
            """)
        )
    ).one()
    waits_for, waits_until = await _head(connection, now, reports)
    return QueueReport(
        row.queued,
        row.generating,
        row.generated,
        waits_for,
        waits_until,
        row.refused_uploads,
        row.spool_bytes,
        row.unpublished,
    )


async def _head(
    connection: AsyncConnection, now: datetime, reports: Sequence[LimitReport]
) -> tuple[str | None, datetime | None]:
    """The limit that holds the best due job, and the instant it gives way (None: never)."""
    head = (
        await connection.execute(
            text("""
                SELECT source, type, bound_microusd FROM imagepipe.jobs
                WHERE state = 'queued' AND due_at <= clock_timestamp()
                ORDER BY priority DESC, sequence LIMIT 1
            """)
        )
    ).one_or_none()
    if head is None:
        return None, None
    purchase = Purchase(head.source, head.type, head.bound_microusd)
    held: list[tuple[str, datetime | None]] = []
    for report in reports:
        limit = report.limit
        full = not limit.has_room(report.used_requests, report.used_microusd, purchase.microusd)
        if limit.scope in purchase.scopes and full:
            held.append((limit.name, await ledger.room_at(connection, limit, purchase, now)))
    if not held:
        return None, None
    never = [name for name, instant in held if instant is None]
    if never:
        return never[0], None
    return max(held, key=lambda one: one[1] or now)


async def circuits(connection: AsyncConnection) -> list[CircuitReport]:
    """Models that are paused or stopped now."""
    rows = await connection.execute(
        text("""
            SELECT model, code, message, nullif(paused_until, 'infinity') AS until
            FROM imagepipe.circuits WHERE paused_until > clock_timestamp() ORDER BY model
        """)
    )
    return [CircuitReport(*row) for row in rows]


async def days(connection: AsyncConnection, number: int, timezone: str = "UTC") -> list[DayReport]:
    """The last `number` calendar days in `timezone`, today first, also those with nothing."""
    rows = await connection.execute(
        text("""
            WITH span AS (
                SELECT CAST(clock_timestamp() AT TIME ZONE :zone AS date) - n AS day
                FROM generate_series(0, :number - 1) AS n
            ), bounds AS (
                SELECT day, CAST(day AS timestamp) AT TIME ZONE :zone AS since,
                       CAST(day + 1 AS timestamp) AT TIME ZONE :zone AS until FROM span
            )
            SELECT day,
                (SELECT count(*) FROM imagepipe.attempts
                 WHERE state = 'bought' AND finished_at >= since AND finished_at < until),
                (SELECT count(*) FROM imagepipe.attempts
                 WHERE state IN ('refused', 'unknown')
                   AND finished_at >= since AND finished_at < until),
                (SELECT CAST(coalesce(sum(microusd), 0) AS bigint) FROM imagepipe.reservations
                 WHERE at >= since AND at < until),
                hits.requests, hits.microusd
            FROM bounds CROSS JOIN LATERAL (
                SELECT CAST(coalesce(sum(uses), 0) AS bigint) AS requests,
                       CAST(coalesce(sum(uses * cost), 0) AS bigint) AS microusd
                FROM (
                    SELECT count(*) AS uses,
                           (SELECT CAST(a.generation_metadata ->> 'costMicroUsd' AS bigint)
                            FROM media_assets a WHERE a.id = r.asset_id) AS cost
                    FROM imagepipe.requests r
                    WHERE r.cached AND r.finished_at >= since AND r.finished_at < until
                    GROUP BY r.asset_id
                ) by_asset
            ) hits
            ORDER BY day DESC
        """),
        {"number": number, "zone": timezone},
    )
    return [DayReport(*row) for row in rows]


async def dead_letters(connection: AsyncConnection) -> dict[str, int]:
    """How many dead letters are open, by reason."""
    rows = await connection.execute(
        text(
            "SELECT code, count(*) AS number FROM imagepipe.dead_letters"
            " WHERE fate IS NULL GROUP BY code ORDER BY code"
        )
    )
    return {row.code: row.number for row in rows}
