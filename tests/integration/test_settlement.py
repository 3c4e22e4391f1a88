"""What follows a call: money, job, log and outcome, whoever comes with bytes and however late."""

from dataclasses import dataclass
from typing import Any

import pytest

from pipeline.claims import Claimed
from pipeline.errors import Closed, OutcomeUnknown, OutsideError, Rejected, Retryable, Throttled
from pipeline.ports import Usage
from pipeline.rules.retries import Patience
from tests.integration.builders import COST, DALL_E, PATIENCE, Steps, asked, picture

BOUND = asked("any").bound_microusd
UNKNOWN = OutcomeUnknown("timeout", "no answer in time")
LAST_TRY = Patience(max_tries=1, unknown_retries=0)


@dataclass(frozen=True, slots=True)
class After:
    """What a failed call leaves: the job's state, its money, and the failure that is told."""

    job: str
    reservation: str
    held: int
    told: str | None = None  # errorClass of image-failed


REFUSED = Rejected("invalid_value", "no such size", request_id="req_9")
MODERATED = Rejected("policy", "the safety system refuses", error_class="policy")
OVERLOADED = Retryable("server_is_overloaded", "busy")


@pytest.mark.parametrize(
    ("error", "patience", "after"),
    [
        (REFUSED, PATIENCE, After("failed", "released", 0, "permanent")),
        (MODERATED, PATIENCE, After("failed", "released", 0, "policy")),
        (OVERLOADED, PATIENCE, After("queued", "released", 0)),
        (OVERLOADED, LAST_TRY, After("failed", "released", 0, "exhausted")),
        (Throttled("slow_down", "wait", delay=30), LAST_TRY, After("queued", "released", 0)),
        (Closed("unauthorized", "wrong key"), LAST_TRY, After("queued", "released", 0)),
        (UNKNOWN, PATIENCE, After("queued", "unknown", BOUND)),
        (UNKNOWN, LAST_TRY, After("failed", "unknown", BOUND, "unknown-outcome")),
    ],
    ids=lambda value: getattr(value, "code", None),
)
async def test_a_failed_call_settles_its_money_and_moves_its_job_on(
    steps: Steps, error: OutsideError, patience: Patience, after: After
) -> None:
    await steps.ask(asked("a"), asked("b"))
    claimed = await steps.claim_one()

    await steps.fail(claimed, error, patience)

    job = await steps.row("SELECT * FROM imagepipe.jobs")
    assert (job.state, job.lease, job.error_code) == (after.job, None, error.code)
    money = await steps.row("SELECT state, microusd FROM imagepipe.reservations")
    assert tuple(money) == (after.reservation, after.held)
    assert await steps.value(
        "SELECT bool_and(microusd = :held AND requests = :requests) FROM imagepipe.windows"
        " WHERE scope = 'global'",
        held=after.held,
        requests=int(after.held > 0),
    )
    log = await steps.row("SELECT * FROM ai_image_generation_logs")
    assert (log.id, log.success, log.error_message) == (claimed.attempt_id, False, str(error))
    assert int(log.cost * 1_000_000) == -(-after.held // 100) * 100
    failed = await steps.said("image-failed")
    if after.told is None:
        assert failed == []
    else:
        assert [said.data["errorClass"] for said in failed] == [after.told, after.told]
        costs = [said.data["costIncurred"]["usd"] * 1_000_000 for said in failed]
        assert costs == pytest.approx([after.held, 0])
        assert {(said.data["code"], said.data["attempts"]) for said in failed} == {(error.code, 1)}


async def test_the_log_speaks_the_specifications_words(steps: Steps) -> None:
    fields: dict[str, Any] = {
        "type": "hero",
        "options": {"quality": "hd"},
        "context": {"theme": "deniz"},
    }
    await steps.make(asked("a", **fields))

    log = await steps.row("SELECT * FROM ai_image_generation_logs")
    asked_for = log.generation_type, log.image_size, log.image_quality
    assert asked_for == ("hero", "1792x1024", "hd")
    assert (log.success, log.error_message) == (True, None)
    expected = asked("a", **fields)
    assert (log.context_hash, log.prompt_hash) == (expected.context_hash, expected.prompt_hash)
    assert int(log.cost * 1_000_000) == COST + 30  # 13,270 rounded up to a hundredth of a cent


async def test_a_settled_attempt_stays_as_it_is(steps: Steps) -> None:
    await steps.ask(asked("a"))
    claimed = await steps.claim_one()
    assert await steps.keep(claimed) is True

    assert await steps.keep(claimed, picture("red")) is False
    await steps.fail(claimed, REFUSED)

    assert await steps.value("SELECT state FROM imagepipe.jobs") == "generated"
    assert await steps.value("SELECT microusd FROM imagepipe.reservations") == COST
    assert await steps.value("SELECT success FROM ai_image_generation_logs")


async def lost(steps: Steps, claimed: Claimed) -> None:
    """The attempt's worker has not been heard of until its deadline."""
    await steps.execute(
        "UPDATE imagepipe.jobs SET lease_until = clock_timestamp() - interval '1 second'"
        " WHERE lease = :lease",
        lease=claimed.attempt_id,
    )
    assert await steps.give_up_expired() == 1


async def claim_again(steps: Steps) -> Claimed:
    await steps.execute("UPDATE imagepipe.jobs SET due_at = clock_timestamp()")
    return await steps.claim_one()


async def test_bytes_that_come_after_the_deadline_are_kept_and_settled(steps: Steps) -> None:
    await steps.ask(asked("a"))
    claimed = await steps.claim_one()
    await lost(steps, claimed)
    assert await steps.value("SELECT state FROM imagepipe.jobs") == "queued"

    assert await steps.keep(claimed) is True
    await steps.complete(claimed.job_id)

    money = await steps.row("SELECT state, microusd FROM imagepipe.reservations")
    assert tuple(money) == ("settled", COST)
    log = await steps.row("SELECT success, error_message FROM ai_image_generation_logs")
    assert tuple(log) == (True, None)
    [ready] = await steps.said("image-ready")
    assert ready.data["cached"] is False


async def test_late_bytes_of_a_failed_job_become_a_picture_for_the_next(steps: Steps) -> None:
    await steps.ask(asked("a"))
    first = await steps.claim_one()
    await lost(steps, first)
    await lost(steps, await claim_again(steps))
    [failed] = await steps.said("image-failed")
    assert (failed.data["errorClass"], failed.data["attempts"]) == ("unknown-outcome", 2)
    await steps.ask(asked("meanwhile"))  # opens a job of its own, which must not be in the way

    assert await steps.keep(first) is True
    await steps.complete(first.job_id)

    assert (await steps.ask(asked("later"))).hits == 1
    claim = await steps.claim()
    assert (claim.claimed, claim.hits) == ([], 1)
    assert await steps.value("SELECT count(*) FROM media_assets") == 1


async def test_the_first_bytes_win_and_the_second_are_a_duplicate_purchase(steps: Steps) -> None:
    await steps.ask(asked("a"))
    first = await steps.claim_one()
    await lost(steps, first)
    second = await claim_again(steps)

    assert await steps.keep(second, picture("green")) is True
    assert await steps.keep(first, picture("red")) is False
    await steps.complete(first.job_id)

    duplicates = await steps.rows("SELECT id FROM imagepipe.attempts WHERE duplicate")
    assert [row.id for row in duplicates] == [first.attempt_id]
    assert await steps.value("SELECT sum(microusd) FROM imagepipe.reservations") == 2 * COST
    sha256 = await steps.value("SELECT generation_metadata ->> 'sha256' FROM media_assets")
    assert sha256 == picture("green").facts.sha256
    logs = await steps.rows(
        "SELECT id FROM ai_image_generation_logs WHERE success AND media_asset_id IS NOT NULL"
    )
    assert [row.id for row in logs] == [second.attempt_id]


async def test_pictures_kept_together_are_settled_each_for_itself(steps: Steps) -> None:
    await steps.ask(asked("a"))
    late = await steps.claim_one()
    await lost(steps, late)
    second = await claim_again(steps)
    await steps.ask(asked("b", "Müstakil Ev"))
    known = await steps.claim_one()
    await steps.keep(known)
    await steps.ask(asked("c", "Bahçeli Villa"))
    other = await steps.claim_one()

    kept = await steps.keep_together(
        (second, picture("green")), (known, picture()), (late, picture("red")), (other, picture())
    )

    assert kept == [True, False, False, True]
    duplicates = await steps.rows("SELECT id FROM imagepipe.attempts WHERE duplicate")
    assert [row.id for row in duplicates] == [late.attempt_id]
    assert await steps.value("SELECT sum(microusd) FROM imagepipe.reservations") == 4 * COST
    spooled = await steps.rows("SELECT job_id, sha256 FROM imagepipe.image_spool")
    assert {row.job_id for row in spooled} == {second.job_id, known.job_id, other.job_id}
    assert picture("red").facts.sha256 not in {row.sha256 for row in spooled}


async def test_a_late_refusal_gives_the_money_back(steps: Steps) -> None:
    await steps.ask(asked("a"))
    claimed = await steps.claim_one()
    await lost(steps, claimed)

    await steps.fail(claimed, REFUSED)

    money = await steps.row("SELECT state, microusd FROM imagepipe.reservations")
    assert tuple(money) == ("released", 0)
    assert await steps.value("SELECT state FROM imagepipe.jobs") == "queued"


async def test_a_lease_that_still_runs_is_not_given_up(steps: Steps) -> None:
    await steps.ask(asked("a"))
    await steps.claim_one()

    assert await steps.give_up_expired() == 0


async def test_a_cost_above_its_bound_is_recorded_in_full_and_stops_the_model(
    steps: Steps,
) -> None:
    await steps.ask(asked("a", "A"), asked("b", "B"))
    [claimed] = (await steps.claim(slots=1)).claimed

    await steps.keep(claimed, picture(usage=Usage(20, 0, 10_000)))

    assert await steps.value("SELECT microusd FROM imagepipe.reservations") == 300_100
    assert await steps.value("SELECT max(microusd) FROM imagepipe.windows") == 300_100
    assert await steps.value("SELECT code FROM imagepipe.circuits") == "price_above_bound"
    assert (await steps.claim()).claimed == []


async def test_without_usage_the_bound_is_the_cost_and_says_so(steps: Steps) -> None:
    await steps.ask(asked("a"))
    claimed = await steps.claim_one()

    await steps.keep(claimed, picture(usage=None))
    await steps.complete(claimed.job_id)

    [ready] = await steps.said("image-ready")
    assert ready.data["cost"]["basis"] == "estimated"
    assert ready.data["cost"]["usd"] * 1_000_000 == pytest.approx(BOUND)


async def test_a_price_per_picture_is_known_without_usage(steps: Steps) -> None:
    await steps.ask(asked("a", model=DALL_E, options={"size": "1792x1024", "quality": "hd"}))
    claimed = await steps.claim_one()

    await steps.keep(claimed, picture(usage=None))

    bought = await steps.row("SELECT cost_microusd, cost_basis FROM imagepipe.attempts")
    assert tuple(bought) == (120_000, "actual")


async def test_a_model_that_the_catalogue_no_longer_lists_does_not_cost_the_picture(
    steps: Steps,
) -> None:
    await steps.ask(asked("a"))
    claimed = await steps.claim_one()
    await steps.execute("UPDATE imagepipe.jobs SET model = 'gone'")

    assert await steps.keep(claimed) is True

    bought = await steps.row("SELECT cost_microusd, cost_basis FROM imagepipe.attempts")
    assert tuple(bought) == (BOUND, "estimated")


async def test_a_revised_prompt_of_any_characters_does_not_cost_the_picture(steps: Steps) -> None:
    await steps.ask(asked("a"))
    claimed = await steps.claim_one()

    assert await steps.keep(claimed, picture(revised_prompt="deniz\0 kıyısı \ud800")) is True
    await steps.complete(claimed.job_id)

    [ready] = await steps.said("image-ready")
    assert ready.data["revisedPrompt"] == "deniz kıyısı ?"
