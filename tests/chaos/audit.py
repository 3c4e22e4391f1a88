"""The audit: the three promises, and what they rest on, checked over the evidence."""

from collections.abc import Callable

from tests.chaos import audit_events as events
from tests.chaos import audit_money as money
from tests.chaos.check import Check
from tests.chaos.evidence import Evidence

CHECKS: tuple[Callable[[Evidence], Check], ...] = (
    events.events_are_recorded_once,
    events.events_have_one_outcome,
    events.deferrals_are_announced_once,
    events.broken_records_are_dead_letters,
    events.failures_have_a_reason,
    events.answers_show_what_was_asked,
    events.uses_are_counted,
    money.pictures_are_paid_once,
    money.received_pictures_are_not_bought_again,
    money.charges_are_recorded,
    money.no_window_is_over,
    money.totals_are_exact,
    money.attempts_are_settled,
    events.nothing_is_left,
    events.jobs_moved_lawfully,
    events.workers_ended_only_by_force,
)


def audit(evidence: Evidence) -> list[Check]:
    """Every check, in the order of the flow."""
    return [check(evidence) for check in CHECKS]
