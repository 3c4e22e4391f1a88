"""What an operator does: jobs tried again and cancelled, the ledger checked, a full spool."""

from typing import Any
from uuid import UUID

import pytest

from pipeline import audit, claims, operations
from pipeline.errors import Rejected, Retryable
from pipeline.operations import NotPossible
from pipeline.rules.lifecycle import JobState
from tests.integration.builders import TOPICS, Steps, asked


async def operate(steps: Steps, work: Any, *args: Any) -> Any:
    async with steps.engine.begin() as connection:
        return await work(connection, *args)


async def failed_job(steps: Steps, event_id: str = "one") -> UUID:
    await steps.ask(asked(event_id))
    claimed = await steps.claim_one()
    await steps.fail(claimed, Rejected("bad_request", "no"))
    return claimed.job_id


async def test_a_failed_job_tried_again_answers_the_same_request_anew(steps: Steps) -> None:
    job = await failed_job(steps)

    assert await operate(steps, operations.retry, job) is JobState.QUEUED
    claimed = await steps.claim_one()
    await steps.keep(claimed)
    await steps.complete(job)

    assert await steps.value("SELECT state FROM imagepipe.requests") == "ready"
    assert len(await steps.said("image-failed")) == len(await steps.said("image-ready")) == 1


async def test_a_second_failure_is_a_message_of_its_own(steps: Steps) -> None:
    job = await failed_job(steps)
    await operate(steps, operations.retry, job)
    await steps.fail(await steps.claim_one(), Rejected("bad_request", "no"))

    first, second = await steps.said("image-failed")
    assert first.id != second.id


async def test_back_off_is_cut_short(steps: Steps) -> None:
    await steps.ask(asked("one"))
    claimed = await steps.claim_one()
    await steps.fail(claimed, Retryable("not_sent", "refused"))
    assert (await steps.claim()).claimed == []

    await operate(steps, operations.retry, claimed.job_id)

    assert (await steps.claim_one()).job_id == claimed.job_id


async def test_a_picture_somebody_else_makes_meanwhile_is_not_opened_twice(steps: Steps) -> None:
    job = await failed_job(steps)
    await steps.ask(asked("two"))

    with pytest.raises(NotPossible, match="already"):
        await operate(steps, operations.retry, job)
    assert await steps.value("SELECT count(*) FROM imagepipe.jobs WHERE state = 'queued'") == 1


async def test_what_is_done_or_in_hand_cannot_be_tried_again_or_cancelled(steps: Steps) -> None:
    await steps.ask(asked("one"))
    claimed = await steps.claim_one()

    for work, args in ((operations.retry, ()), (operations.cancel, (TOPICS,))):
        with pytest.raises(NotPossible, match="generating"):
            await operate(steps, work, claimed.job_id, *args)
        with pytest.raises(NotPossible, match="no job"):
            await operate(steps, work, UUID(int=7), *args)


async def test_cancelling_tells_everybody_and_buys_nothing(steps: Steps) -> None:
    await steps.ask(asked("one"), asked("two"))
    job = await steps.value("SELECT id FROM imagepipe.jobs")

    await operate(steps, operations.cancel, job, TOPICS)

    assert [said.data["code"] for said in await steps.said("image-failed")] == ["cancelled"] * 2
    assert (await steps.claim()).claimed == []


async def test_the_ledger_adds_up_and_says_when_it_does_not(steps: Steps) -> None:
    await steps.make(asked("one"), asked("two", "Other"))
    assert await operate(steps, audit.verify) == []

    await steps.execute("UPDATE imagepipe.windows SET microusd = microusd + 1")
    await steps.execute("UPDATE imagepipe.attempts SET cost_microusd = cost_microusd + 1")

    differences = await operate(steps, audit.verify)
    assert [one.where.split()[0] for one in differences].count("reservation") == 2
    assert any(one.where.startswith("window global, 3600") for one in differences)


async def test_money_that_is_held_for_nothing_is_found(steps: Steps) -> None:
    await steps.ask(asked("one"))
    claimed = await steps.claim_one()
    assert await operate(steps, audit.verify) == []

    await steps.execute("DELETE FROM imagepipe.attempts")

    [difference] = await operate(steps, audit.verify)
    assert difference.where == f"reservation {claimed.attempt_id}"


async def test_nothing_is_bought_while_the_spool_is_full(steps: Steps) -> None:
    await steps.ask(asked("one"))
    await steps.keep(await steps.claim_one())
    await steps.ask(asked("two", "Other"))

    async def claim(limit: int) -> int:
        async with steps.engine.begin() as connection:
            claim = await claims.claim(
                connection,
                slots=8,
                call_timeout=60,
                topics=TOPICS,
                trial=False,
                spool_limit=limit,
            )
            return len(claim.claimed)

    assert await claim(10) == 0
    assert await claim(10_000) == 1
