"""The ledger: money reserved before a call and settled after it, exact in every sliding window.

Every function takes a connection inside the caller's transaction. `open_books`, `settle` and
`apply_limits` take the ledger's lock (the row of `ledger_clock`) and hold it until that
transaction ends, so keep what follows them short. Instants are read after the lock and never go
back; a window's totals hold exactly the reservations with `at > upto`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules.lifecycle import ReservationState
from pipeline.rules.limits import Books, Limit, Purchase

IN_SCOPE = "(w.scope IN ('global', 'source:' || r.source, 'type:' || r.type))"
LIMIT = "l.name, l.scope, l.span_seconds, l.max_requests, l.max_microusd, l.derived"
LIMIT_ORDER = "l.derived, l.scope, l.span_seconds, l.max_requests NULLS LAST, l.name"


class LimitsRefused(ValueError):
    """The new limits cannot be applied; the message names the limit and says why."""


@dataclass(frozen=True, slots=True)
class OpenBooks:
    """The books under the ledger's lock: `now` is the instant of whatever is reserved next."""

    now: datetime
    books: Books


@dataclass(frozen=True, slots=True)
class Reservation:
    """An amount to hold. `id` is the attempt's."""

    id: UUID
    purchase: Purchase
    model: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a reservation turns out to count: `microusd` and 1 request, or 0 and 0."""

    id: UUID
    state: ReservationState
    microusd: int

    @property
    def requests(self) -> int:
        return 0 if self.state is ReservationState.RELEASED else 1


async def lock(connection: AsyncConnection) -> datetime:
    """Take the ledger's lock and return its instant, which never goes back.

    Two statements: an UPDATE alone computes its values before it waits, and keeps them when the
    one it waited for rolls back; its instant would be that of a moment long gone.
    """
    await connection.execute(text("SELECT FROM imagepipe.ledger_clock FOR UPDATE"))
    advance = text(
        "UPDATE imagepipe.ledger_clock SET instant = greatest(instant, clock_timestamp())"
        " RETURNING instant"
    )
    instant: datetime = (await connection.execute(advance)).scalar_one()
    return instant


async def now(connection: AsyncConnection) -> datetime:
    """The ledger's instant without its lock: fit to look at, not to reserve at."""
    instant: datetime = (
        await connection.execute(
            text("SELECT greatest(instant, clock_timestamp()) FROM imagepipe.ledger_clock")
        )
    ).scalar_one()
    return instant


async def open_books(connection: AsyncConnection) -> OpenBooks:
    """Lock the ledger, subtract what has left every window, and read limits and totals."""
    now = await lock(connection)
    await connection.execute(
        text(f"""
            UPDATE imagepipe.windows w
            SET upto = gone.upto, requests = w.requests - gone.requests,
                microusd = w.microusd - gone.microusd
            FROM (
                SELECT w.scope, w.span_seconds, edge.upto,
                       count(r.id) FILTER (WHERE r.requests = 1) AS requests,
                       coalesce(sum(r.microusd), 0) AS microusd
                FROM imagepipe.windows w
                CROSS JOIN LATERAL (
                    SELECT CAST(:now AS timestamptz) - make_interval(secs => w.span_seconds)
                ) AS edge (upto)
                LEFT JOIN imagepipe.reservations r
                    ON r.at > w.upto AND r.at <= edge.upto AND {IN_SCOPE}
                WHERE edge.upto > w.upto
                GROUP BY w.scope, w.span_seconds, edge.upto
            ) gone
            WHERE w.scope = gone.scope AND w.span_seconds = gone.span_seconds
        """),
        {"now": now},
    )
    return OpenBooks(now, await read_books(connection))


async def read_books(connection: AsyncConnection) -> Books:
    """Limits and totals of one moment (without the lock: fit to look at, not to act on).

    One statement: between two, other limits could be applied, and a limit's window be gone.
    """
    rows = await connection.execute(
        text(f"""
            SELECT {LIMIT}, w.requests, w.microusd
            FROM imagepipe.limits l JOIN imagepipe.windows w USING (scope, span_seconds)
            ORDER BY {LIMIT_ORDER}
        """)
    )
    limits: list[Limit] = []
    totals: dict[tuple[str, int], tuple[int, int]] = {}
    for *columns, requests, microusd in rows:
        limits.append(Limit(*columns))
        totals[limits[-1].window] = requests, microusd
    return Books(limits, totals)


async def read_limits(connection: AsyncConnection) -> list[Limit]:
    """All limits, the user's own before those derived from them."""
    rows = await connection.execute(
        text(f"SELECT {LIMIT} FROM imagepipe.limits l ORDER BY {LIMIT_ORDER}")
    )
    return [Limit(*row) for row in rows]


async def reserve(
    connection: AsyncConnection, now: datetime, reservations: Sequence[Reservation]
) -> None:
    """Write down what `open_books(...)` at `now` has room for. The caller has asked the books."""
    if not reservations:
        return
    columns = {
        "ids": [r.id for r in reservations],
        "sources": [r.purchase.source for r in reservations],
        "types": [r.purchase.type for r in reservations],
        "models": [r.model for r in reservations],
        "bounds": [r.purchase.microusd for r in reservations],
    }
    await connection.execute(
        text("""
            INSERT INTO imagepipe.reservations
                (id, at, source, type, model, state, bound_microusd, microusd, requests)
            SELECT id, :now, source, type, model, 'held', bound, bound, 1
            FROM unnest(CAST(:ids AS uuid[]), CAST(:sources AS text[]), CAST(:types AS text[]),
                        CAST(:models AS text[]), CAST(:bounds AS bigint[]))
                AS new (id, source, type, model, bound)
        """),
        {**columns, "now": now},
    )
    added = [
        _Change(now, r.purchase.source, r.purchase.type, 1, r.purchase.microusd)
        for r in reservations
    ]
    await _add_to_windows(connection, added)


async def renew(connection: AsyncConnection, opened: OpenBooks, id_: UUID) -> bool:
    """Let a reservation that was made ahead count from `opened.now`, when its call is made.

    Windows that it has left meanwhile must have room for it again; False, and nothing is changed,
    where one has not.
    """
    held = (
        await connection.execute(
            text("SELECT at, source, type, microusd FROM imagepipe.reservations WHERE id = :id"),
            {"id": id_},
        )
    ).one()
    purchase = Purchase(held.source, held.type, held.microusd)
    left = [
        limit
        for limit in opened.books.limits
        if limit.scope in purchase.scopes
        and held.at <= opened.now - timedelta(seconds=limit.span_seconds)
    ]
    if not all(opened.books.has_room(limit, purchase) for limit in left):
        return False
    opened.books.count(purchase, {limit.window for limit in left})
    await connection.execute(
        text("""
            UPDATE imagepipe.windows
            SET requests = requests + 1, microusd = microusd + :microusd
            WHERE scope = ANY(:scopes) AND upto >= :at
        """),
        {"microusd": held.microusd, "scopes": list(purchase.scopes), "at": held.at},
    )
    await connection.execute(
        text("UPDATE imagepipe.reservations SET at = :now WHERE id = :id"),
        {"now": opened.now, "id": id_},
    )
    return True


async def settle(connection: AsyncConnection, settlements: Sequence[Settlement]) -> None:
    """Replace what reservations count by what they turned out to be, in every window they are in.

    Settling is by attempt and final: a reservation that is settled or released stays so, whoever
    comes later. One that was *unknown* may still be settled.
    """
    await lock(connection)
    wanted = {s.id: s for s in settlements}
    rows = await connection.execute(
        text(
            "SELECT id, at, source, type, requests, microusd FROM imagepipe.reservations"
            " WHERE id = ANY(:ids) AND state IN ('held', 'unknown')"
        ),
        {"ids": list(wanted)},
    )
    replaced = [(row, wanted[row.id]) for row in rows]
    await connection.execute(
        text("""
            UPDATE imagepipe.reservations r
            SET state = new.state, microusd = new.microusd, requests = new.requests
            FROM unnest(CAST(:ids AS uuid[]), CAST(:states AS text[]),
                        CAST(:microusd AS bigint[]), CAST(:requests AS smallint[]))
                AS new (id, state, microusd, requests)
            WHERE r.id = new.id
        """),
        {
            "ids": [new.id for _, new in replaced],
            "states": [new.state for _, new in replaced],
            "microusd": [new.microusd for _, new in replaced],
            "requests": [new.requests for _, new in replaced],
        },
    )
    changes = [
        _Change(
            old.at,
            old.source,
            old.type,
            new.requests - old.requests,
            new.microusd - old.microusd,
        )
        for old, new in replaced
    ]
    await _add_to_windows(connection, changes)


@dataclass(frozen=True, slots=True)
class _Change:
    """By how much more, or less, a reservation counts in the windows it is in."""

    at: datetime
    source: str
    type: str
    requests: int
    microusd: int


async def _add_to_windows(connection: AsyncConnection, changes: Sequence[_Change]) -> None:
    """Add each change to the windows its reservation is still in (those with `upto` before it)."""
    await connection.execute(
        text(f"""
            UPDATE imagepipe.windows w
            SET requests = w.requests + change.requests, microusd = w.microusd + change.microusd
            FROM (
                SELECT w.scope, w.span_seconds, sum(r.requests) AS requests,
                       sum(r.microusd) AS microusd
                FROM unnest(CAST(:at AS timestamptz[]), CAST(:sources AS text[]),
                            CAST(:types AS text[]), CAST(:requests AS bigint[]),
                            CAST(:microusd AS bigint[])) AS r (at, source, type, requests, microusd)
                JOIN imagepipe.windows w ON w.upto < r.at AND {IN_SCOPE}
                GROUP BY w.scope, w.span_seconds
            ) change
            WHERE w.scope = change.scope AND w.span_seconds = change.span_seconds
        """),
        {
            "at": [change.at for change in changes],
            "sources": [change.source for change in changes],
            "types": [change.type for change in changes],
            "requests": [change.requests for change in changes],
            "microusd": [change.microusd for change in changes],
        },
    )


@dataclass(frozen=True, slots=True)
class Usage:
    """What counts in a window at an instant; `oldest_at`: of the request that leaves it first."""

    requests: int
    microusd: int
    oldest_at: datetime | None

    @property
    def amounts(self) -> tuple[int, int]:
        return self.requests, self.microusd


async def count(connection: AsyncConnection, limit: Limit, at: datetime) -> Usage:
    """Count a limit's window at an instant, over the reservations themselves."""
    row = (
        await connection.execute(
            text(f"""
                SELECT coalesce(sum(r.requests), 0), coalesce(sum(r.microusd), 0),
                       min(r.at) FILTER (WHERE r.requests = 1)
                FROM imagepipe.reservations r, (SELECT CAST(:scope AS text) AS scope) w
                WHERE r.at > CAST(:at AS timestamptz) - make_interval(secs => :span)
                  AND {IN_SCOPE}
            """),
            {"scope": limit.scope, "span": limit.span_seconds, "at": at},
        )
    ).one()
    return Usage(int(row[0]), int(row[1]), row[2])


async def room_at(
    connection: AsyncConnection, limit: Limit, purchase: Purchase, now: datetime
) -> datetime | None:
    """The earliest instant at which `limit` has room for `purchase`, if nothing else is bought.

    `now` when it has room already; None when it never will. At the instant the purchase fits, a
    millisecond before it does not: reservations leave a window all at once, at + span.
    """
    if not limit.could_ever_fit(purchase.microusd):
        return None
    leaves_at: datetime | None = (
        await connection.execute(
            text(f"""
                WITH live AS (
                    SELECT r.at, r.requests, r.microusd
                    FROM imagepipe.reservations r, (SELECT CAST(:scope AS text) AS scope) w
                    WHERE r.at > CAST(:now AS timestamptz) - make_interval(secs => :span)
                      AND {IN_SCOPE}
                ), leaving AS (
                    SELECT at, sum(requests) OVER newer AS requests,
                           sum(microusd) OVER newer AS microusd
                    FROM live WINDOW newer AS (ORDER BY at DESC)
                )
                SELECT max(at) + make_interval(secs => :span) FROM leaving
                WHERE requests + 1 > :max_requests OR microusd + :amount > :max_microusd
            """),
            {
                "scope": limit.scope,
                "span": limit.span_seconds,
                "now": now,
                "amount": purchase.microusd,
                "max_requests": limit.max_requests,
                "max_microusd": limit.max_microusd,
            },
        )
    ).scalar_one()
    return leaves_at or now


async def room_for(
    connection: AsyncConnection, limits: Sequence[Limit], purchase: Purchase, now: datetime
) -> datetime | None:
    """The earliest instant at which all of `limits` have room; None when one never will."""
    instants = [await room_at(connection, limit, purchase, now) for limit in limits]
    return max((i for i in instants if i), default=now) if all(instants) else None


async def apply_limits(connection: AsyncConnection, limits: Sequence[Limit]) -> None:
    """Replace all limits; windows that are new are built from the ledger under its lock.

    Raises `LimitsRefused` for a span longer than the history that is kept.
    """
    await lock(connection)
    await connection.execute(text("DELETE FROM imagepipe.limits"))
    for scope, span in sorted({limit.window for limit in limits}):
        await _build_window(connection, scope, span)
    for limit in limits:
        await connection.execute(
            text(
                "INSERT INTO imagepipe.limits"
                " VALUES (:name, :scope, :span, :max_requests, :max_microusd, :derived)"
            ),
            {
                "name": limit.name,
                "scope": limit.scope,
                "span": limit.span_seconds,
                "max_requests": limit.max_requests,
                "max_microusd": limit.max_microusd,
                "derived": limit.derived,
            },
        )
    await connection.execute(
        text(
            "DELETE FROM imagepipe.windows w WHERE NOT EXISTS (SELECT FROM imagepipe.limits l"
            " WHERE l.scope = w.scope AND l.span_seconds = w.span_seconds)"
        )
    )


async def _build_window(connection: AsyncConnection, scope: str, span: int) -> None:
    short = await connection.scalar(
        text(
            "SELECT history_from FROM imagepipe.ledger_clock"
            " WHERE history_from > instant - make_interval(secs => :span)"
        ),
        {"span": span},
    )
    if short is not None:
        raise LimitsRefused(
            f"a window of {span} seconds reaches further back than the ledger, which is kept from"
            f" {short:%Y-%m-%d %H:%M:%S} UTC: take a shorter span, or wait"
        )
    await connection.execute(
        text(f"""
            INSERT INTO imagepipe.windows (scope, span_seconds, upto, requests, microusd)
            SELECT w.scope, :span, edge.upto, count(r.id) FILTER (WHERE r.requests = 1),
                   coalesce(sum(r.microusd), 0)
            FROM (SELECT CAST(:scope AS text) AS scope) w
            CROSS JOIN (SELECT instant - make_interval(secs => :span)
                        FROM imagepipe.ledger_clock) AS edge (upto)
            LEFT JOIN imagepipe.reservations r ON r.at > edge.upto AND {IN_SCOPE}
            GROUP BY w.scope, edge.upto
            ON CONFLICT DO NOTHING
        """),
        {"scope": scope, "span": span},
    )
