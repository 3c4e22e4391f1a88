"""Models that nobody should call for a while: how long, for whom, and how they come back."""

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pipeline import circuits
from pipeline.errors import Closed, OutsideError, Retryable, Throttled
from pipeline.rules.retries import Patience, judge

MODEL = "gpt-image-2.5-flare"
NO_CREDIT = Closed("insufficient_quota", "the account has no credit")
CALL_SECONDS = 390.0


async def failed(connection: AsyncConnection, error: OutsideError) -> None:
    """Record a call's failure, as settlement does."""
    verdict = judge(
        error,
        tries=0,
        unknowns=0,
        failures=await circuits.failures(connection, MODEL),
        patience=Patience(max_tries=5, unknown_retries=1),
        jitter=0.0,
    )
    await circuits.pause(connection, MODEL, error, verdict)


async def pause_left(connection: AsyncConnection) -> float:
    """Seconds until somebody may call the model, counted within this transaction; 0 when now."""
    left = text("""
        SELECT coalesce((SELECT extract(epoch FROM paused_until - now())
                         FROM imagepipe.circuits WHERE model = :model), 0)
    """)
    return float((await connection.execute(left, {"model": MODEL})).scalar_one())


async def is_paused_for(connection: AsyncConnection, seconds: float) -> bool:
    """Whether the pause is so long, give or take what this transaction has lasted."""
    return seconds <= await pause_left(connection) < seconds + 10


async def pause_is_over(connection: AsyncConnection) -> None:
    """As if so much time had passed."""
    await connection.execute(text("UPDATE imagepipe.circuits SET paused_until = clock_timestamp()"))


async def test_other_failures_pause_nobody(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await failed(connection, Retryable("not_sent", "connection refused"))
        assert await pause_left(connection) == 0


async def test_a_rate_limit_pauses_the_model_and_a_longer_pause_stays(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await failed(connection, Throttled("slow_down", "slow down", delay=100.0))
        assert await is_paused_for(connection, 100)
        await failed(connection, Throttled("slow_down", "slow down", delay=20.0))
        assert await is_paused_for(connection, 100)
        await failed(connection, Throttled("slow_down", "slow down", delay=200.0))
        assert await is_paused_for(connection, 200)
        assert await circuits.failures(connection, MODEL) == 0


async def test_each_failed_probe_doubles_the_pause(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await failed(connection, NO_CREDIT)
        for pause in (60, 120, 240):
            assert await is_paused_for(connection, pause)
            await pause_is_over(connection)
            await circuits.probing(connection, {MODEL}, CALL_SECONDS)
            assert await is_paused_for(connection, CALL_SECONDS)  # one call at a time
            await failed(connection, NO_CREDIT)
        assert await circuits.failures(connection, MODEL) == 4


async def test_calls_that_were_out_together_are_one_failure(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        for _ in range(8):
            await failed(connection, NO_CREDIT)
        assert await circuits.failures(connection, MODEL) == 1
        assert await is_paused_for(connection, 60)


async def test_a_rate_limit_while_it_is_out_does_not_hide_a_failed_probe(
    engine: AsyncEngine,
) -> None:
    async with engine.begin() as connection:
        await failed(connection, NO_CREDIT)
        await circuits.probing(connection, {MODEL}, CALL_SECONDS)
        await failed(connection, Throttled("slow_down", "slow down", delay=5.0))
        await failed(connection, NO_CREDIT)
        assert await circuits.failures(connection, MODEL) == 2
        assert await is_paused_for(connection, 120)


async def test_a_rate_limited_model_that_turns_out_closed_is_a_first_failure(
    engine: AsyncEngine,
) -> None:
    async with engine.begin() as connection:
        await failed(connection, Throttled("slow_down", "slow down", delay=5.0))
        await failed(connection, NO_CREDIT)
        assert await circuits.failures(connection, MODEL) == 1
        assert await is_paused_for(connection, 60)


async def test_only_open_circuits_are_probed(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await failed(connection, Throttled("slow_down", "slow down", delay=5.0))
        await circuits.probing(connection, {MODEL, "another"}, CALL_SECONDS)
        assert await is_paused_for(connection, 5)


async def test_one_call_that_goes_through_brings_the_model_back(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await failed(connection, NO_CREDIT)
        await circuits.closed_again(connection, MODEL)
        assert await pause_left(connection) == 0
        assert await circuits.failures(connection, MODEL) == 0


async def test_a_success_does_not_end_a_rate_limit(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await failed(connection, Throttled("slow_down", "slow down", delay=100.0))
        await circuits.closed_again(connection, MODEL)
        assert await is_paused_for(connection, 100)


@pytest.mark.parametrize("before", [None, NO_CREDIT, Throttled("slow_down", "wait", delay=5.0)])
async def test_a_stopped_model_waits_for_a_person(
    engine: AsyncEngine, before: OutsideError | None
) -> None:
    async with engine.begin() as connection:
        if before:
            await failed(connection, before)
        await circuits.stop(connection, MODEL, "a picture cost more than its bound")
        await circuits.closed_again(connection, MODEL)
        await circuits.probing(connection, {MODEL}, CALL_SECONDS)
        await failed(connection, NO_CREDIT)
        await failed(connection, Throttled("slow_down", "slow down", delay=5.0))
        assert await pause_left(connection) == float("inf")
        assert await circuits.resume(connection, MODEL)
        assert await pause_left(connection) == 0
        assert not await circuits.resume(connection, MODEL)
