"""The ledger against what the provider counted: per day and model, what is held, settled and
unknown, and what the recorded `usage` comes to at the catalogue's prices."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.ports import Usage
from pipeline.rules.catalogue import Catalogue, NoBound, UnknownModel
from pipeline.rules.lifecycle import ReservationState
from pipeline.rules.pricing import actual_cost


@dataclass(slots=True)
class Bill:
    """One day of one model; micro-dollars.

    `estimated`: the part of `settled` that nobody can recompute, because the answer had no usage or
    the catalogue no longer lists the model. `recomputed`: the rest, from its usage.
    """

    day: date
    model: str
    calls: int = 0  # bought
    held: int = 0
    settled: int = 0
    estimated: int = 0
    recomputed: int = 0
    unknown_calls: int = 0
    unknown: int = 0

    @property
    def difference(self) -> int:
        """What was settled beyond what the usage comes to; 0 when all is well."""
        return self.settled - self.estimated - self.recomputed


async def reconcile(
    connection: AsyncConnection, catalogue: Catalogue, *, days: int, timezone: str
) -> list[Bill]:
    """The last `days` calendar days in `timezone`, the newest first; streams the ledger."""
    rows = await connection.stream(
        text("""
            SELECT CAST(r.at AT TIME ZONE :zone AS date) AS day, r.model, r.state, r.microusd,
                   a.usage, a.cost_basis, j.size, j.quality
            FROM imagepipe.reservations r
            LEFT JOIN imagepipe.attempts a ON a.id = r.id
            LEFT JOIN imagepipe.jobs j ON j.id = a.job_id
            WHERE r.at >= CAST(CAST(clock_timestamp() AT TIME ZONE :zone AS date) - :before
                               AS timestamp) AT TIME ZONE :zone
        """),
        {"zone": timezone, "before": days - 1},
    )
    bills: dict[tuple[date, str], Bill] = {}
    async for row in rows:
        bill = bills.setdefault((row.day, row.model), Bill(row.day, row.model))
        _add(bill, row, catalogue)
    return sorted(bills.values(), key=lambda bill: (-bill.day.toordinal(), bill.model))


def total(bills: Iterable[Bill]) -> dict[str, int]:
    """The sums of all bills."""
    names = ("calls", "held", "settled", "estimated", "recomputed", "unknown_calls", "unknown")
    found = dict.fromkeys((*names, "difference"), 0)
    for bill in bills:
        for name in found:
            found[name] += getattr(bill, name)
    return found


def _add(bill: Bill, row: Row[Any], catalogue: Catalogue) -> None:
    match ReservationState(row.state):
        case ReservationState.HELD:
            bill.held += row.microusd
        case ReservationState.UNKNOWN:
            bill.unknown_calls += 1
            bill.unknown += row.microusd
        case ReservationState.SETTLED:
            bill.calls += 1
            bill.settled += row.microusd
            cost = _recompute(row, catalogue)
            if cost is None:
                bill.estimated += row.microusd
            else:
                bill.recomputed += cost
        case ReservationState.RELEASED:
            pass


def _recompute(row: Row[Any], catalogue: Catalogue) -> int | None:
    usage = Usage(**row.usage) if row.usage else None
    try:
        return actual_cost(catalogue.model(row.model), row.size, row.quality, usage)
    except (UnknownModel, NoBound):
        return None
