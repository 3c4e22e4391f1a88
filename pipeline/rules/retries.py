"""What happens to a job, its money and its model after a call went wrong: the one place."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import Closed, OutcomeUnknown, OutsideError, Rejected, Throttled

BACKOFF = 2.0  # seconds before the second try, doubling
LONGEST_BACKOFF = 300.0  # seconds
CIRCUIT_PAUSE = 60.0  # seconds before the first probe of a closed provider, doubling
LONGEST_CIRCUIT_PAUSE = 3600.0  # seconds
MOST_DOUBLINGS = 32  # past every longest pause, and far from what a float can hold

ErrorClass = Literal["permanent", "policy", "exhausted", "unknown-outcome"]


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a picture is tried: calls that failed unbilled, and further calls after an
    attempt whose outcome nobody knows."""

    max_tries: int
    unknown_retries: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`delay`: seconds until the next try, None when there is none (`error_class` says why)."""

    delay: float | None
    error_class: ErrorClass | None
    keep_money: bool
    tries: int
    unknowns: int
    pause_model: float | None = None  # seconds without any call to this model
    opens_circuit: bool = False


def judge(
    error: OutsideError,
    *,
    tries: int,
    unknowns: int,
    failures: int,
    patience: Patience,
    jitter: float,
) -> Verdict:
    """Decide after a failed call.

    `tries`, `unknowns`: how many calls of this job failed before; `failures`: how often in a row
    the model was found closed; `jitter`: a random number in [0, 1).
    """
    match error:
        case Rejected():
            return Verdict(None, error.error_class, False, tries + 1, unknowns)
        case OutcomeUnknown():
            again = unknowns < patience.unknown_retries
            delay = backoff(unknowns, jitter) if again else None
            return Verdict(delay, None if again else "unknown-outcome", True, tries, unknowns + 1)
        case Throttled(delay=delay):
            return Verdict(delay, None, False, tries, unknowns, pause_model=delay)
        case Closed():
            pause = doubled(CIRCUIT_PAUSE, failures, longest=LONGEST_CIRCUIT_PAUSE)
            return Verdict(0.0, None, False, tries, unknowns, pause, opens_circuit=True)
        case _:
            again = tries + 1 < patience.max_tries
            delay = backoff(tries, jitter) if again else None
            return Verdict(delay, None if again else "exhausted", False, tries + 1, unknowns)


def backoff(failures: int, jitter: float) -> float:
    """Seconds to wait after `failures` earlier failures: doubling, spread over [1/2, 1]."""
    return doubled(BACKOFF, failures, longest=LONGEST_BACKOFF) * (0.5 + jitter / 2)


def doubled(seconds: float, times: int, *, longest: float) -> float:
    """`seconds`, doubled `times` times (as often as one likes), but never above `longest`."""
    return min(seconds * 2.0 ** min(times, MOST_DOUBLINGS), longest)


def upload_delay(error: OutsideError, tries: int, *, jitter: float) -> float:
    """Seconds until an upload is tried again after `tries` earlier failures; it always is.

    What the host refuses for good, or needs a person for, is tried at the longest pace.
    """
    match error:
        case Throttled(delay=delay):
            return delay
        case Closed() | Rejected():
            return LONGEST_BACKOFF
        case _:
            return backoff(tries, jitter)
