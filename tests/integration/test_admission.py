"""Money held ahead of a claim, for those who do not queue."""

from dataclasses import replace

from pipeline import admission, attendance
from pipeline.preparation import Prepared
from pipeline.requests import API
from pipeline.rules.lifecycle import Source
from tests.integration.builders import TOPICS, Steps, asked, global_limit
from tests.integration.test_deferral import later


def over_http(event_id: str, title: str) -> Prepared:
    return replace(asked(event_id, title, source=Source.API), event_source=API)


async def reserve(steps: Steps, prepared: Prepared) -> admission.Decision:
    """Ask, and hold the money, as the API does for a client that waits."""
    await steps.ask(prepared)
    async with steps.engine.begin() as connection:
        decision = await admission.reserve(connection, prepared.id)
        await attendance.attend(connection, [prepared.id])
    return decision


async def clear(steps: Steps) -> int:
    async with steps.engine.begin() as connection:
        return await attendance.clear(connection, TOPICS)


async def test_money_held_ahead_counts_from_the_call(steps: Steps) -> None:
    await steps.limit(global_limit(requests=1))
    assert (await reserve(steps, over_http("a", "A"))).allowed
    await later(steps, 3000)

    [claimed] = (await steps.claim()).claimed

    row = await steps.row(
        "SELECT id, at > now() - interval '10 s' AS fresh FROM imagepipe.reservations"
    )
    assert (row.id, row.fresh) == (claimed.attempt_id, True)
    await later(steps, 1000)  # an hour after it was held, not after the call
    assert not (await reserve(steps, over_http("b", "B"))).allowed
    await later(steps, 2600)
    await steps.execute("DELETE FROM imagepipe.requests WHERE event_id = 'b'")
    assert await steps.value("SELECT requests FROM imagepipe.windows") == 1


async def test_money_that_has_left_a_window_must_fit_again(steps: Steps) -> None:
    await steps.limit(global_limit(requests=1))
    assert (await reserve(steps, over_http("slow", "Slow"))).allowed
    await later(steps, 3600)
    assert (await reserve(steps, over_http("quick", "Quick"))).allowed
    await steps.execute(
        "UPDATE imagepipe.jobs SET priority = 20 WHERE id = :id", id=over_http("quick", "Quick").id
    )

    claim = await steps.claim()

    assert [claimed.job_id for claimed in claim.claimed] == [over_http("quick", "Quick").id]
    slow = await steps.row(
        "SELECT state, reserved FROM imagepipe.jobs WHERE id = :id", id=over_http("slow", "Slow").id
    )
    assert tuple(slow) == ("queued", None)
    states = await steps.rows("SELECT state FROM imagepipe.reservations ORDER BY at")
    assert [row.state for row in states] == ["released", "held"]
    assert await steps.value("SELECT requests FROM imagepipe.windows") == 1


async def test_money_that_has_left_a_window_with_room_is_counted_again(steps: Steps) -> None:
    await steps.limit(global_limit(requests=1))
    await reserve(steps, over_http("slow", "Slow"))
    await later(steps, 3600)

    assert len((await steps.claim()).claimed) == 1

    window = await steps.row("SELECT requests, microusd FROM imagepipe.windows")
    held = await steps.value("SELECT microusd FROM imagepipe.reservations")
    assert tuple(window) == (1, held)


async def test_jobs_that_nobody_may_call_are_not_in_the_way(steps: Steps) -> None:
    await steps.limit(global_limit(requests=1))
    await steps.ask(asked("stopped", "Stopped"))
    await steps.execute("""
        INSERT INTO imagepipe.circuits (model, code, message, failures, paused_until)
        SELECT model, 'price_above_bound', '', 1, 'infinity' FROM imagepipe.jobs
    """)
    await steps.execute("UPDATE imagepipe.jobs SET model = 'stopped'")
    await steps.execute("UPDATE imagepipe.circuits SET model = 'stopped'")

    assert (await reserve(steps, over_http("a", "A"))).allowed


async def test_money_is_kept_while_somebody_waits_and_released_after(steps: Steps) -> None:
    await reserve(steps, over_http("a", "A"))
    assert await clear(steps) == 0
    assert await steps.value("SELECT state FROM imagepipe.reservations") == "held"

    await steps.execute("UPDATE imagepipe.requests SET attended_until = clock_timestamp()")

    assert await clear(steps) == 1
    assert await steps.value("SELECT state FROM imagepipe.reservations") == "released"
    assert await steps.value("SELECT count(*) FROM imagepipe.jobs WHERE reserved IS NOT NULL") == 0


async def test_an_abandoned_job_can_be_tried_again_by_an_operator(steps: Steps) -> None:
    from pipeline import operations

    await reserve(steps, over_http("a", "A"))
    await steps.execute("UPDATE imagepipe.requests SET attended_until = clock_timestamp()")
    await clear(steps)
    async with steps.engine.begin() as connection:
        await operations.retry(connection, over_http("a", "A").id)

    assert await clear(steps) == 0
    await steps.claim_one()
