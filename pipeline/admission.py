"""Whether a purchase may go now, for those who do not want to queue: requests over HTTP.

They are judged as a claim would judge them, the queue before them included, and get their money
in the transaction that opens their job (`reserve`): the worker that claims the job finds it
reserved. Nothing is told of what was refused; its transaction is rolled back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import ledger
from pipeline.claims import MAY_BE_CALLED
from pipeline.ids import time_ordered
from pipeline.ledger import Reservation
from pipeline.rules.limits import Books, Limit, Purchase, admit

LOOKS_AHEAD = 1000
"""Jobs of the queue that are considered before a purchase. Where so many fit, windows are large."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the queue a purchase stands: behind better priorities and lower sequences; who has
    not queued yet is the last of his priority."""

    priority: int
    sequence: int = 2**62


@dataclass(frozen=True, slots=True)
class Decision:
    """`limits`: those in the way, none when it may go. `retry_at`: when they will have room; None
    when it may go now, or never."""

    limits: list[Limit]
    retry_at: datetime | None

    @property
    def allowed(self) -> bool:
        return not self.limits


async def books_now(connection: AsyncConnection) -> tuple[datetime, Books]:
    """The ledger's instant and its books at it, recounted from the reservations: fit to look at."""
    now = await ledger.now(connection)
    limits = await ledger.read_limits(connection)
    used = {limit.window: await ledger.count(connection, limit, now) for limit in limits}
    return now, Books(limits, {window: usage.amounts for window, usage in used.items()})


async def decide(
    connection: AsyncConnection, books: Books, now: datetime, purchase: Purchase, place: Place
) -> Decision:
    """Whether the purchase may go at `now`, after all that stands before it in the queue."""
    if never := books.never_fits(purchase):
        return Decision(never, None)
    queue = [*await _ahead(connection, place), purchase]
    own = len(queue) - 1
    admission = admit(books, queue)  # takes the room of those who are admitted out of the books
    if own in admission.admitted:
        return Decision([], None)
    heads = [limits for scope, (_, limits) in admission.heads.items() if scope in purchase.scopes]
    limits = list(dict.fromkeys(limit for closed in heads for limit in closed))
    return Decision(limits, await _room_for_all(connection, admission.heads, queue, purchase, now))


async def _ahead(connection: AsyncConnection, place: Place) -> list[Purchase]:
    """What a claim would take before the place, without jobs that have their money."""
    rows = await connection.execute(
        text(f"""
            SELECT j.source, j.type, j.bound_microusd FROM imagepipe.jobs j
            WHERE j.reserved IS NULL AND {MAY_BE_CALLED}
              AND (j.priority > :priority OR j.priority = :priority AND j.sequence < :sequence)
            ORDER BY j.priority DESC, j.sequence LIMIT :limit
        """),
        {"priority": place.priority, "sequence": place.sequence, "limit": LOOKS_AHEAD},
    )
    return [Purchase(*row) for row in rows]


async def _room_for_all(
    connection: AsyncConnection,
    heads: dict[str, tuple[int, list[Limit]]],
    queue: Sequence[Purchase],
    purchase: Purchase,
    now: datetime,
) -> datetime | None:
    """When every head that closes a scope of the purchase has room, and then the purchase."""
    instants = []
    for scope, (index, limits) in heads.items():
        if scope in purchase.scopes:
            waiting = (queue[index], purchase)
            instants += [await ledger.room_for(connection, limits, who, now) for who in waiting]
    return max((i for i in instants if i), default=None)


async def reserve(connection: AsyncConnection, job_id: UUID) -> Decision:
    """Hold the money for a queued job that has none, if the job may go now.

    The caller has locked the job. Takes the ledger's lock until the transaction ends.
    """
    opened = await ledger.open_books(connection)
    job = (
        await connection.execute(
            text("""
                SELECT source, type, bound_microusd, model, priority, sequence
                FROM imagepipe.jobs WHERE id = :id
            """),
            {"id": job_id},
        )
    ).one()
    purchase = Purchase(job.source, job.type, job.bound_microusd)
    place = Place(job.priority, job.sequence)
    decision = await decide(connection, opened.books, opened.now, purchase, place)
    if decision.allowed:
        attempt = time_ordered()
        await ledger.reserve(connection, opened.now, [Reservation(attempt, purchase, job.model)])
        await connection.execute(
            text("UPDATE imagepipe.jobs SET reserved = :attempt WHERE id = :id"),
            {"attempt": attempt, "id": job_id},
        )
    return decision
