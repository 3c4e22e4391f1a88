"""Pruning: what nothing needs any more goes, and a replay buys nothing again."""

from datetime import UTC, datetime, timedelta

import pytest

from pipeline import audit, ledger, prune
from pipeline.ledger import LimitsRefused
from pipeline.prune import Old
from pipeline.rules.limits import Limit
from tests.integration.builders import Steps, asked
from tests.integration.test_deferral import later

OLD = 100 * 86_400  # seconds


async def grow_old(steps: Steps) -> None:
    await later(steps, OLD)
    await steps.execute(
        "UPDATE imagepipe.requests SET finished_at = finished_at - make_interval(secs => :s)", s=OLD
    )
    await steps.execute(
        "UPDATE imagepipe.outbox SET published_at = now() - make_interval(secs => :s)", s=OLD
    )
    await steps.execute(
        "UPDATE imagepipe.attempts SET started_at = started_at - make_interval(secs => :s)", s=OLD
    )


async def run(steps: Steps, days: int = 90, batch: int = 2) -> Old:
    removed = Old()
    before = datetime.now(UTC) - timedelta(days=days)
    async with steps.engine.connect() as connection:
        expected = await prune.count(connection, before)
    async for one in prune.prune(steps.engine, before, batch=batch):
        removed += one
    assert removed == expected
    return removed


async def test_old_requests_outcomes_and_reservations_go(steps: Steps) -> None:
    await steps.make(*(asked(f"{n}", f"Title {n}") for n in range(3)))
    await steps.ask(*(asked(f"hit {n}", f"Title {n}") for n in range(3)))
    await grow_old(steps)
    await steps.make(asked("new", "New"))

    assert await run(steps) == Old(requests=6, messages=6, reservations=3)

    assert await steps.value("SELECT count(*) FROM media_assets") == 4
    assert await steps.value("SELECT count(*) FROM ai_image_generation_logs") == 4
    assert await steps.value("SELECT count(*) FROM imagepipe.entity_images") == 7
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 1
    async with steps.engine.begin() as connection:
        assert await audit.verify(connection) == []


async def test_a_replay_after_it_buys_nothing(steps: Steps) -> None:
    past_the_cache = asked("fresh", "Fresh", skipCache=True)
    await steps.make(asked("bought", "Bought"), past_the_cache)
    await steps.make(asked("deleted", "Deleted"))
    await steps.execute("DELETE FROM media_assets WHERE title = 'Deleted'")
    await steps.ask(asked("failed", "Failed"))
    await steps.execute("""
        UPDATE imagepipe.requests SET state = 'failed', error_code = 'policy', finished_at = now()
        WHERE event_id = 'failed'
    """)
    await steps.execute("UPDATE imagepipe.jobs SET state = 'failed' WHERE state = 'queued'")
    await grow_old(steps)

    assert (await run(steps)).requests == 1  # of the one that was bought

    again = await steps.ask(
        asked("bought", "Bought"),
        past_the_cache,
        asked("deleted", "Deleted"),
        asked("failed", "Failed"),
    )
    assert (again.new, again.hits) == (1, 1)
    assert (await steps.claim()).claimed == []


async def test_what_is_not_published_or_still_counts_stays(steps: Steps) -> None:
    await steps.make(asked("a"))
    await steps.execute("UPDATE imagepipe.requests SET finished_at = now() - interval '100 days'")

    assert await run(steps, days=1) == Old()
    assert await run(steps, days=0) == Old()  # its reservation still counts in a window


async def test_the_ledger_remembers_how_far_it_goes_back(steps: Steps) -> None:
    await steps.make(asked("a"))
    await grow_old(steps)
    await run(steps)

    year = Limit("year", "global", 360 * 86_400, 1, None)
    async with steps.engine.begin() as connection:
        with pytest.raises(LimitsRefused, match="reaches further back"):
            await ledger.apply_limits(connection, [year])
