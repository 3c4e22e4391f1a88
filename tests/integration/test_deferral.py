"""Telling those who wait for a limit: once per request and wait, with the instant it frees."""

from datetime import datetime, timedelta

from pipeline.rules.limits import Limit
from tests.integration.builders import Steps, asked, global_limit


async def later(steps: Steps, seconds: int) -> None:
    """Let time pass for the ledger: everything it holds moves into the past."""
    for table, column in (
        ("reservations", "at"),
        ("windows", "upto"),
        ("ledger_clock", "instant"),
    ):
        await steps.execute(
            f"UPDATE imagepipe.{table} SET {column} = {column} - make_interval(secs => :seconds)",
            seconds=seconds,
        )


async def look(steps: Steps) -> int:
    """What a worker does at every look: claim, then tell those who have to wait."""
    claim = await steps.claim()
    for claimed in claim.claimed:
        await steps.keep(claimed)
        await steps.complete(claimed.job_id)
    return await steps.defer(claim.heads)


async def test_each_waiting_request_is_told_once_and_until_when(steps: Steps) -> None:
    await steps.limit(global_limit(requests=1))
    await steps.ask(asked("goes", "A"), asked("head", "B"), asked("joined", "B"), asked("n", "C"))

    assert await look(steps) == 3
    assert await look(steps) == 0

    deferred = await steps.said("image-deferred")
    assert [said.key for said in deferred] == ["listing:head", "listing:joined", "listing:n"]
    bought_at = await steps.value("SELECT at FROM imagepipe.reservations")
    for said in deferred:
        assert datetime.fromisoformat(said.data["retryAt"]) == bought_at + timedelta(hours=1)
        assert said.data["limit"] == {
            "name": "test-global",
            "scope": "global",
            "windowSeconds": 3600,
        }
        assert said.data["used"]["requests"] == 1
        assert said.data["maximum"] == {"requests": 1, "usd": None}


async def test_a_second_wait_is_another_event(steps: Steps) -> None:
    await steps.limit(global_limit(requests=1))
    await steps.ask(asked("first", "A"), asked("second", "B"))
    await look(steps)
    await later(steps, 3600)
    claimed = await steps.claim_one()
    await steps.execute("UPDATE imagepipe.jobs SET lease_until = now() WHERE state = 'generating'")
    await steps.give_up_expired()  # its outcome is unknown, so its money goes on counting
    await steps.execute("UPDATE imagepipe.jobs SET due_at = clock_timestamp()")

    assert await look(steps) == 1

    one, two = await steps.said("image-deferred")
    assert one.data["requestId"] == two.data["requestId"] == str(claimed.job_id)
    assert one.id != two.id
    assert one.data["retryAt"] < two.data["retryAt"]


async def test_work_goes_on_by_itself_when_the_window_frees(steps: Steps) -> None:
    await steps.limit(global_limit(requests=1))
    await steps.ask(asked("first", "A"), asked("second", "B"))
    await look(steps)

    await later(steps, 3599)
    assert (await steps.claim()).claimed == []
    await later(steps, 1)
    assert len((await steps.claim()).claimed) == 1


async def test_what_can_never_fit_is_told_so(steps: Steps) -> None:
    request = asked("a")
    await steps.limit(global_limit(microusd=request.bound_microusd - 1))
    await steps.ask(request)

    assert await look(steps) == 1
    assert await look(steps) == 0

    [deferred] = await steps.said("image-deferred")
    assert deferred.data["retryAt"] is None
    assert deferred.data["maximum"]["usd"] * 1_000_000 == request.bound_microusd - 1


async def test_other_scopes_are_not_told_to_wait(steps: Steps) -> None:
    await steps.limit(global_limit(requests=0, scope="type:hero"), global_limit(requests=1))
    await steps.ask(asked("hero", "A", type="hero"), asked("listing", "B"))

    await look(steps)

    deferred = await steps.said("image-deferred")
    assert [(said.key, said.data["limit"]["scope"]) for said in deferred] == [
        ("listing:hero", "type:hero")
    ]


async def test_a_hit_is_never_deferred(steps: Steps) -> None:
    await steps.make(asked("a"))
    await steps.limit(global_limit(requests=1))

    assert (await steps.ask(asked("b"))).hits == 1
    assert await look(steps) == 0


async def test_of_several_limits_the_one_that_frees_last_is_told(steps: Steps) -> None:
    await steps.limit(
        global_limit(requests=1),
        Limit("day", "global", 86_400, 1, None),
        Limit("hero-month", "type:hero", 2_592_000, 1, None),
    )
    await steps.ask(asked("bought", "A", type="hero"))
    await look(steps)
    await steps.ask(asked("hero", "B", type="hero"), asked("listing", "C"))

    await look(steps)

    bought_at = await steps.value("SELECT at FROM imagepipe.reservations")
    told = {
        said.key: (said.data["limit"]["name"], datetime.fromisoformat(said.data["retryAt"]))
        for said in await steps.said("image-deferred")
    }
    assert told == {
        "listing:hero": ("hero-month", bought_at + timedelta(days=30)),
        "listing:listing": ("day", bought_at + timedelta(days=1)),
    }
