"""What every limit's window held at every instant, recomputed from the ledger's history."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.rules.limits import Limit


@dataclass(frozen=True, slots=True)
class Amount:
    """What one reservation counts from some step on."""

    id: str
    at: datetime
    source: str
    type: str
    requests: int
    microusd: int

    @property
    def scopes(self) -> tuple[str, str, str]:
        return "global", f"source:{self.source}", f"type:{self.type}"


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that a limit's window ever held, its requests and its money not always at once."""

    limit: Limit
    requests: int
    microusd: int

    @property
    def is_over(self) -> bool:
        return any(used > maximum for used, maximum in self._of_maxima)

    @property
    def fullness(self) -> float:
        """The larger share of what the limit allows; 1 is full."""
        return max((used / maximum for used, maximum in self._of_maxima if maximum), default=0.0)

    @property
    def _of_maxima(self) -> list[tuple[int, int]]:
        limit = self.limit
        pairs = (self.requests, limit.max_requests), (self.microusd, limit.max_microusd)
        return [(used, maximum) for used, maximum in pairs if maximum is not None]


def peaks(limits: Iterable[Limit], steps: Sequence[Amount]) -> list[Peak]:
    """Replay `steps` (each replaces what its reservation counted before, in the order in which
    they happened) and look into every window after each of them.

    Between two steps a window only empties, so this covers every instant.
    """
    return [_peak(limit, steps) for limit in limits]


def _peak(limit: Limit, steps: Sequence[Amount]) -> Peak:
    span = timedelta(seconds=limit.span_seconds)
    live: dict[str, Amount] = {}
    now: datetime | None = None
    requests = microusd = 0
    for step in steps:
        if limit.scope not in step.scopes:
            continue
        now = step.at if now is None else max(now, step.at)
        live[step.id] = step
        live = {id_: amount for id_, amount in live.items() if amount.at + span > now}
        requests = max(requests, sum(amount.requests for amount in live.values()))
        microusd = max(microusd, sum(amount.microusd for amount in live.values()))
    return Peak(limit, requests, microusd)


def totals(scope: str, upto: datetime, amounts: Iterable[Amount]) -> tuple[int, int]:
    """Requests and micro-dollars of the reservations of a scope later than `upto`."""
    counted = [amount for amount in amounts if scope in amount.scopes and amount.at > upto]
    return sum(one.requests for one in counted), sum(one.microusd for one in counted)
