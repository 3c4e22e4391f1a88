"""States and their legal moves: of a job, of a request, of an attempt, of a reservation.

A move is one conditional UPDATE (`WHERE state IN (...)`); zero rows means that somebody already
did it, which is a normal answer.
"""

from enum import StrEnum


class JobState(StrEnum):
    """One distinct picture on its way."""

    QUEUED = "queued"  # waits for money, a slot, or its next try
    GENERATING = "generating"  # an attempt has started
    GENERATED = "generated"  # the bytes are in the spool; only the upload is left
    DONE = "done"  # the asset is stored and everybody has been answered
    FAILED = "failed"  # everybody has been answered


JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset(
        {
            JobState.GENERATING,  # claimed, together with its money
            JobState.GENERATED,  # bytes of an attempt given up as unknown came after all
            JobState.DONE,  # the same picture exists meanwhile
            JobState.FAILED,
        }
    ),
    JobState.GENERATING: frozenset({JobState.QUEUED, JobState.GENERATED, JobState.FAILED}),
    JobState.GENERATED: frozenset({JobState.DONE}),  # never back: a paid picture is kept
    JobState.DONE: frozenset(),
    JobState.FAILED: frozenset(
        {
            JobState.GENERATED,  # late bytes, once more
            JobState.QUEUED,  # an operator tries it again
        }
    ),
}

LIVE = frozenset({JobState.QUEUED, JobState.GENERATING, JobState.GENERATED})
"""States in which a request for the same picture joins the job."""


def sources_of(target: JobState) -> list[JobState]:
    """The states from which a job may move to `target`: the WHERE of that move."""
    return sorted(state for state, targets in JOB_MOVES.items() if target in targets)


class RequestState(StrEnum):
    WAITING = "waiting"
    READY = "ready"
    FAILED = "failed"


class AttemptState(StrEnum):
    STARTED = "started"  # the call may have been sent
    BOUGHT = "bought"
    REFUSED = "refused"  # answered, or never sent: not billed
    UNKNOWN = "unknown"  # nobody can say


class ReservationState(StrEnum):
    HELD = "held"  # the upper bound counts
    SETTLED = "settled"  # the real cost counts
    RELEASED = "released"  # nothing counts
    UNKNOWN = "unknown"  # the upper bound counts for ever


class Source(StrEnum):
    """Where a request came from: a limit's scope (`source:live`) and a priority."""

    LIVE = "live"
    BACKFILL = "backfill"
    API = "api"

    @property
    def priority(self) -> int:
        """Higher goes first."""
        return 0 if self is Source.BACKFILL else 10
