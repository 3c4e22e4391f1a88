"""What follows each kind of failure: for the money, for the job's next try, for the model."""

import pytest

from pipeline.errors import Closed, OutcomeUnknown, OutsideError, Rejected, Retryable, Throttled
from pipeline.rules.retries import Patience, Verdict, backoff, doubled, judge, upload_delay

PATIENCE = Patience(max_tries=3, unknown_retries=1)
MIDDLE = 0.5  # the jitter that makes a back-off three quarters of its longest


def judged(error: OutsideError, *, tries: int = 0, unknowns: int = 0, failures: int = 0) -> Verdict:
    return judge(
        error,
        tries=tries,
        unknowns=unknowns,
        failures=failures,
        patience=PATIENCE,
        jitter=MIDDLE,
    )


@pytest.mark.parametrize(("tries", "delay"), [(0, 1.5), (1, 3.0)])
def test_what_was_not_billed_is_tried_again_later_and_later(tries: int, delay: float) -> None:
    verdict = judged(Retryable("not_sent", "refused"), tries=tries)
    assert verdict == Verdict(delay, None, keep_money=False, tries=tries + 1, unknowns=0)


def test_the_last_try_ends_the_job_and_gives_the_money_back() -> None:
    verdict = judged(Retryable("not_sent", "refused"), tries=2, unknowns=1)
    assert verdict == Verdict(None, "exhausted", keep_money=False, tries=3, unknowns=1)


@pytest.mark.parametrize(
    "error",
    [
        Rejected("bad_size", "no such size"),
        Rejected("moderation_blocked", "no", error_class="policy"),
    ],
)
def test_a_final_answer_is_not_asked_for_twice(error: Rejected) -> None:
    assert judged(error) == Verdict(None, error.error_class, False, tries=1, unknowns=0)


def test_an_unknown_outcome_keeps_its_money_and_may_cost_one_more() -> None:
    timeout = OutcomeUnknown("timeout", "no answer")
    first, second = judged(timeout, tries=2), judged(timeout, tries=2, unknowns=1)
    assert first == Verdict(1.5, None, keep_money=True, tries=2, unknowns=1)
    assert second == Verdict(None, "unknown-outcome", keep_money=True, tries=2, unknowns=2)


def test_who_wants_no_second_purchase_gets_none() -> None:
    verdict = judge(
        OutcomeUnknown("timeout", "no answer"),
        tries=0,
        unknowns=0,
        failures=0,
        patience=Patience(max_tries=3, unknown_retries=0),
        jitter=0.0,
    )
    assert (verdict.error_class, verdict.keep_money) == ("unknown-outcome", True)


def test_a_rate_limit_uses_up_no_try_and_makes_everybody_wait() -> None:
    verdict = judged(Throttled("rate_limit_exceeded", "slow down", delay=17.0), tries=2)
    assert verdict == Verdict(
        17.0, None, keep_money=False, tries=2, unknowns=0, pause_model=17.0, opens_circuit=False
    )


@pytest.mark.parametrize(
    ("failures", "pause"), [(0, 60.0), (1, 120.0), (5, 1920.0), (6, 3600.0), (100_000, 3600.0)]
)
def test_a_closed_provider_is_left_alone_for_longer_and_longer(failures: int, pause: float) -> None:
    verdict = judged(Closed("insufficient_quota", "no credit"), tries=2, failures=failures)
    assert verdict == Verdict(
        0.0, None, keep_money=False, tries=2, unknowns=0, pause_model=pause, opens_circuit=True
    )


@pytest.mark.parametrize(
    ("failures", "shortest", "longest"),
    [(0, 1.0, 2.0), (1, 2.0, 4.0), (7, 128.0, 256.0), (8, 150.0, 300.0), (1_000_000, 150.0, 300.0)],
)
def test_a_backoff_doubles_and_is_spread_over_its_upper_half(
    failures: int, shortest: float, longest: float
) -> None:
    assert backoff(failures, 0.0) == shortest
    assert shortest < backoff(failures, 0.999) < longest


def test_doubling_goes_on_for_as_long_as_an_outage() -> None:
    assert [doubled(0.1, times, longest=5.0) for times in (0, 1, 5, 6, 10**9)] == pytest.approx(
        [0.1, 0.2, 3.2, 5.0, 5.0]
    )


@pytest.mark.parametrize(
    ("error", "tries", "seconds"),
    [
        (Retryable("host_unavailable", "502"), 0, 1.5),
        (Retryable("host_unavailable", "502"), 3, 12.0),
        (Retryable("host_unavailable", "502"), 100_000, 225.0),
        (Throttled("rate_limited", "420", delay=60.0), 9, 60.0),
        (Closed("unauthorized", "401"), 0, 300.0),
        (Rejected("too_large", "400"), 0, 300.0),
    ],
)
def test_an_upload_has_no_last_try(error: OutsideError, tries: int, seconds: float) -> None:
    assert upload_delay(error, tries, jitter=MIDDLE) == seconds
