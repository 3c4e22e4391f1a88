"""A picture whose bytes were received is not bought again while it is on its way to the host."""

from pipeline.errors import OutcomeUnknown
from pipeline.rules.retries import Patience
from tests.integration.builders import Steps, asked

NO_SECOND_TRY = Patience(max_tries=1, unknown_retries=0)


async def test_late_bytes_of_a_failed_job_keep_the_next_job_from_buying(steps: Steps) -> None:
    await steps.ask(asked("first"))
    lost = await steps.claim_one()
    await steps.fail(lost, OutcomeUnknown("timeout", "no answer"), NO_SECOND_TRY)
    await steps.ask(asked("second"))

    await steps.keep(lost)

    assert (await steps.claim()).claimed == []
    await steps.complete(lost.job_id)
    claim = await steps.claim()
    assert (claim.claimed, claim.hits) == ([], 1)
    assert [ready.data["cached"] for ready in await steps.said("image-ready")] == [True]


async def test_a_picture_past_the_cache_answers_the_next_request_once_it_is_stored(
    steps: Steps,
) -> None:
    await steps.ask(asked("past", skipCache=True))
    past = await steps.claim_one()
    await steps.keep(past)

    await steps.ask(asked("usual"))

    assert (await steps.claim()).claimed == []
    await steps.complete(past.job_id)
    assert (await steps.claim()).hits == 1


async def test_other_pictures_are_bought_meanwhile(steps: Steps) -> None:
    await steps.ask(asked("past", skipCache=True))
    await steps.keep(await steps.claim_one())

    await steps.ask(asked("other", "Bahçeli Villa"), asked("again", skipCache=True))

    assert len((await steps.claim()).claimed) == 2
