"""The ledger by its definition: every purchase ever made, every window added up anew.

Slow and plain on purpose: what `pipeline.ledger` keeps as running totals is compared with it.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from pipeline.rules.lifecycle import ReservationState
from pipeline.rules.limits import Limit, Purchase

FINAL = (ReservationState.SETTLED, ReservationState.RELEASED)


@dataclass
class Entry:
    """One purchase and what it counts by now."""

    at: datetime
    purchase: Purchase
    microusd: int
    requests: int = 1
    state: ReservationState = ReservationState.HELD


@dataclass
class FullHistory:
    """All purchases, and the limits in force."""

    limits: tuple[Limit, ...] = ()
    entries: dict[UUID, Entry] = field(default_factory=dict)

    def reserve(self, id_: UUID, purchase: Purchase, now: datetime) -> None:
        self.entries[id_] = Entry(now, purchase, purchase.microusd)

    def settle(self, id_: UUID, state: ReservationState, microusd: int) -> None:
        """The first final word stands."""
        entry = self.entries[id_]
        if entry.state not in FINAL:
            entry.state, entry.microusd = state, microusd
            entry.requests = 0 if state is ReservationState.RELEASED else 1

    def later_than(self, scope: str, edge: datetime) -> tuple[int, int]:
        """Requests and micro-dollars of a scope's purchases after an instant."""
        counted = [e for e in self.entries.values() if e.at > edge and scope in e.purchase.scopes]
        return sum(e.requests for e in counted), sum(e.microusd for e in counted)

    def fits(self, purchase: Purchase, now: datetime) -> bool:
        """Whether every limit has room for one more purchase."""
        for limit in self.limits_on(purchase):
            requests, microusd = self.later_than(limit.scope, now - span(limit))
            if limit.max_requests is not None and requests >= limit.max_requests:
                return False
            if limit.max_microusd is not None and microusd > limit.max_microusd - purchase.microusd:
                return False
        return True

    def room_at(self, purchase: Purchase, now: datetime) -> datetime | None:
        """The first instant at which the purchase fits if nothing else is bought, or None.

        Room comes only when something leaves a window.
        """
        edges = {e.at + span(limit) for e in self.entries.values() for limit in self.limits}
        instants = [now, *sorted(edge for edge in edges if edge > now)]
        return next((instant for instant in instants if self.fits(purchase, instant)), None)

    def limits_on(self, purchase: Purchase) -> list[Limit]:
        return [limit for limit in self.limits if limit.scope in purchase.scopes]


def span(limit: Limit) -> timedelta:
    return timedelta(seconds=limit.span_seconds)
