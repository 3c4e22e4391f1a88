"""Sliding windows: whether a purchase has room, given the ledger's running totals.

Money is integer micro-dollars, spans are seconds. A reservation counts in a window of `span`
seconds while now < at + span. Everything here is arithmetic on values; `pipeline.ledger` reads
and writes them under its lock.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `max_requests` purchases and `max_microusd` in any `span_seconds`; None: no bound."""

    name: str
    scope: str  # global | source:live | source:backfill | source:api | type:listing ...
    span_seconds: int
    max_requests: int | None
    max_microusd: int | None
    derived: bool = False

    @property
    def window(self) -> tuple[str, int]:
        return self.scope, self.span_seconds

    def could_ever_fit(self, microusd: int) -> bool:
        """Whether an empty window would have room for one purchase of that price."""
        return self.has_room(0, 0, microusd)

    def has_room(self, requests: int, spent: int, microusd: int) -> bool:
        """Whether one more purchase of `microusd` fits on top of what the window holds."""
        return (self.max_requests is None or requests + 1 <= self.max_requests) and (
            self.max_microusd is None or spent + microusd <= self.max_microusd
        )


@dataclass(frozen=True, slots=True)
class Purchase:
    """What is to be reserved: its scopes and its upper bound."""

    source: str
    type: str
    microusd: int

    @property
    def scopes(self) -> tuple[str, str, str]:
        return "global", f"source:{self.source}", f"type:{self.type}"


class Books:
    """All limits with their windows' totals at one instant; admits purchases one by one."""

    def __init__(
        self, limits: Iterable[Limit], totals: dict[tuple[str, int], tuple[int, int]]
    ) -> None:
        """`totals`: (scope, span) -> (requests, micro-dollars) that count at this instant."""
        self.limits = tuple(limits)
        self.totals = dict(totals)

    def blocking(self, purchase: Purchase) -> list[Limit]:
        """The limits that have no room for the purchase now; empty when it may go."""
        return [
            limit
            for limit in self.limits
            if limit.scope in purchase.scopes and not self.has_room(limit, purchase)
        ]

    def has_room(self, limit: Limit, purchase: Purchase) -> bool:
        """Whether the limit's window has room for the purchase now."""
        return limit.has_room(*self.totals[limit.window], purchase.microusd)

    def never_fits(self, purchase: Purchase) -> list[Limit]:
        """The limits that would refuse the purchase even in an empty window."""
        return [
            limit
            for limit in self.limits
            if limit.scope in purchase.scopes and not limit.could_ever_fit(purchase.microusd)
        ]

    def take(self, purchase: Purchase) -> None:
        """Count the purchase in every window of its scopes."""
        self.count(purchase, {window for window in self.totals if window[0] in purchase.scopes})

    def count(self, purchase: Purchase, windows: Iterable[tuple[str, int]]) -> None:
        """Count the purchase in these windows."""
        for window in windows:
            requests, spent = self.totals[window]
            self.totals[window] = requests + 1, spent + purchase.microusd


@dataclass(frozen=True, slots=True)
class Admission:
    """Who of the queue may go now, in order, and who stands at the head of each closed scope."""

    admitted: list[int]  # indexes into the queue
    heads: dict[str, tuple[int, list[Limit]]]  # closed scope -> (index of its head, its limits)


def admit(books: Books, queue: list[Purchase]) -> Admission:
    """Walk the queue (best first): a blocked head closes its windows' scopes for all behind it.

    What could never fit does not close anything: nothing is gained by waiting for it.
    """
    admitted: list[int] = []
    heads: dict[str, tuple[int, list[Limit]]] = {}
    for index, purchase in enumerate(queue):
        if books.never_fits(purchase) or not heads.keys().isdisjoint(purchase.scopes):
            continue
        if blocking := books.blocking(purchase):
            for limit in blocking:
                heads.setdefault(limit.scope, (index, blocking))
        else:
            books.take(purchase)
            admitted.append(index)
    return Admission(admitted, heads)
