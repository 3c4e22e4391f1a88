"""Claiming: jobs leave the queue with their money, in order, and never above a limit."""

import asyncio

import pytest

from pipeline import circuits
from pipeline.claims import Claim
from pipeline.errors import Closed
from pipeline.rules.lifecycle import Source
from pipeline.rules.limits import Limit
from pipeline.rules.retries import Verdict
from tests.integration.builders import COST, DALL_E, FLARE, Steps, asked, global_limit

CHEAP = asked("any").bound_microusd
NUMBERED = asked("any", "No 00").bound_microusd


async def claimed_events(steps: Steps, claim: Claim) -> list[str]:
    """The ids of the events that opened the claimed jobs, in the order of the claim."""
    ids = [claimed.job_id for claimed in claim.claimed]
    rows = await steps.rows("SELECT id, event_id FROM imagepipe.requests")
    events = {row.id: row.event_id for row in rows}
    return [events[id_] for id_ in ids]


async def test_a_claimed_job_has_its_money_and_a_started_attempt(steps: Steps) -> None:
    await steps.ask(asked("a"))

    claimed = await steps.claim_one()

    job = await steps.row("SELECT *, lease_until - clock_timestamp() AS left FROM imagepipe.jobs")
    assert (job.state, job.lease) == ("generating", claimed.attempt_id)
    assert 60 < job.left.total_seconds() < 120
    attempt = await steps.row("SELECT * FROM imagepipe.attempts")
    assert (attempt.id, attempt.state) == (claimed.attempt_id, "started")
    assert attempt.call_deadline == job.lease_until
    held = await steps.row("SELECT * FROM imagepipe.reservations")
    assert (held.id, held.state, held.microusd) == (claimed.attempt_id, "held", CHEAP)
    windows = await steps.rows(
        "SELECT requests, microusd FROM imagepipe.windows WHERE scope = 'global'"
    )
    assert {tuple(window) for window in windows} == {(1, CHEAP)}
    assert (await steps.claim()).claimed == []


async def test_nothing_passes_a_blocked_head_in_its_scope_and_others_go_on(steps: Steps) -> None:
    await steps.limit(global_limit(requests=1, scope="type:listing"), global_limit(requests=9))
    await steps.ask(
        asked("first", "A"),
        asked("second", "B"),
        asked("third", "C"),
        asked("article", "D", type="article"),
    )

    claim = await steps.claim()

    assert await claimed_events(steps, claim) == ["first", "article"]
    assert list(claim.heads) == ["type:listing"]
    assert claim.heads["type:listing"].purchase.type == "listing"


async def test_a_dear_head_is_not_passed_by_what_would_still_fit(steps: Steps) -> None:
    cheap, small = asked("cheap", "A"), asked("small", "C")
    dear = asked("dear", "B", options={"quality": "hd"})
    await steps.limit(global_limit(microusd=cheap.bound_microusd + dear.bound_microusd - 1))
    await steps.ask(cheap, dear, small)

    claim = await steps.claim()

    assert await claimed_events(steps, claim) == ["cheap"]
    assert claim.heads["global"].purchase == dear.purchase


async def test_what_can_never_fit_blocks_nobody(steps: Steps) -> None:
    never = asked("never", "A", options={"quality": "hd"})
    await steps.limit(global_limit(microusd=never.bound_microusd - 1))
    await steps.ask(never, asked("fits", "B"))

    claim = await steps.claim()

    assert await claimed_events(steps, claim) == ["fits"]
    assert claim.heads == {}


async def test_the_queue_goes_by_priority_then_by_age(steps: Steps) -> None:
    await steps.ask(asked("backfill", "A", source=Source.BACKFILL))
    await steps.ask(asked("older", "B"), asked("newer", "C", source=Source.API))

    claims = [await steps.claim(slots=1) for _ in range(3)]

    order = [event for claim in claims for event in await claimed_events(steps, claim)]
    assert order == ["older", "newer", "backfill"]


async def test_a_job_is_left_alone_until_it_is_due(steps: Steps) -> None:
    await steps.ask(asked("a"))
    await steps.execute("UPDATE imagepipe.jobs SET due_at = clock_timestamp() + interval '1 hour'")
    assert (await steps.claim()).claimed == []

    await steps.execute("UPDATE imagepipe.jobs SET due_at = clock_timestamp()")
    assert len((await steps.claim()).claimed) == 1


async def test_a_job_whose_picture_exists_meanwhile_is_answered_without_money(
    steps: Steps,
) -> None:
    await steps.ask(asked("waits"))
    await steps.execute("UPDATE imagepipe.jobs SET due_at = clock_timestamp() + interval '1 hour'")
    await steps.make(asked("buys", skipCache=True))
    await steps.execute("UPDATE imagepipe.jobs SET due_at = clock_timestamp()")
    await steps.limit(global_limit(requests=1))  # which is spent: a hit does not ask for room

    claim = await steps.claim()

    assert (claim.hits, claim.claimed, claim.heads) == (1, [], {})
    assert await steps.value("SELECT sum(microusd) FROM imagepipe.reservations") == COST
    [_, answer] = await steps.said("image-ready")
    assert (answer.key, answer.data["cached"]) == ("listing:waits", True)


@pytest.mark.parametrize(
    "limit", [global_limit(requests=17), global_limit(microusd=18 * NUMBERED - 1)]
)
async def test_claimers_at_once_share_the_limit_and_no_job(steps: Steps, limit: Limit) -> None:
    await steps.limit(limit)
    await steps.ask(*(asked(f"event-{n:02}", f"No {n:02}") for n in range(30)))

    async def claim_all() -> list[Claim]:
        return [await steps.claim(slots=3) for _ in range(8)]

    claims = await asyncio.gather(*(claim_all() for _ in range(4)))

    jobs = [claimed.job_id for mine in claims for claim in mine for claimed in claim.claimed]
    assert len(jobs) == len(set(jobs)) == 17
    window = await steps.row(
        "SELECT requests, microusd FROM imagepipe.windows WHERE scope = 'global'"
    )
    assert tuple(window) == (17, 17 * NUMBERED)


async def test_a_stopped_model_is_not_called_and_others_are(steps: Steps) -> None:
    async with steps.engine.begin() as connection:
        await circuits.stop(connection, FLARE.name, "too dear")
    await steps.ask(asked("flare", "A"), asked("dall-e", "B", model=DALL_E))

    assert await claimed_events(steps, await steps.claim()) == ["dall-e"]

    async with steps.engine.begin() as connection:
        await circuits.resume(connection, FLARE.name)
    assert await claimed_events(steps, await steps.claim()) == ["flare"]


async def test_a_closed_model_is_probed_once_after_its_pause(steps: Steps) -> None:
    async with steps.engine.begin() as connection:
        verdict = Verdict(0.0, None, False, 0, 0, pause_model=60, opens_circuit=True)
        await circuits.pause(connection, FLARE.name, Closed("unauthorized", "no"), verdict)
    await steps.ask(asked("a", "A"), asked("b", "B"), asked("c", "C"))
    assert (await steps.claim()).claimed == []

    await steps.execute("UPDATE imagepipe.circuits SET paused_until = clock_timestamp()")
    probe = await steps.claim_one()
    assert (await steps.claim()).claimed == []

    await steps.keep(probe)
    assert await claimed_events(steps, await steps.claim()) == ["b", "c"]


async def test_a_locked_job_does_not_hold_up_the_others(steps: Steps) -> None:
    await steps.ask(asked("joined", "A"), asked("free", "B"))
    first = "SELECT id FROM imagepipe.jobs ORDER BY sequence LIMIT 1 FOR NO KEY UPDATE"

    async with steps.engine.begin() as connection:
        await connection.exec_driver_sql(first)
        claim = await steps.claim()

    assert await claimed_events(steps, claim) == ["free"]
