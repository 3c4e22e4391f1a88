"""Backfill: the plan is what happens, live work goes first, a second run goes on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import planning
from pipeline.backfill import Backfill, Caps, Progress
from pipeline.generation import Generator
from pipeline.planning import Fate, History, Plan, Planner, in_batches, nothing_seen
from pipeline.rules.lifecycle import Source
from pipeline.rules.limits import Limit
from pipeline.sources.files import FileSource
from tests.integration.builders import COST, FLARE, TOPICS, Steps, asked, global_limit

ROWS: list[dict[str, Any]] = [
    {"id": 1, "type": "listing", "title": "Villa", "hasImages": False},
    {"id": 2, "type": "listing", "title": "VILLA", "hasImages": False},
    {"id": 3, "type": "news", "title": "Haber", "slug": "x", "hasImages": False},
    {"id": 4, "type": "article", "title": "Foto", "hasImages": True},
    {"id": 3, "type": "news", "title": "Haber bir daha", "hasImages": False},
    {"id": 5, "type": "yacht", "title": "Yat"},
    {"id": 6, "type": "listing", "title": "Var"},
    {"id": 7, "type": "listing", "title": "CMS"},
    {"id": 8, "type": "listing", "title": "Known"},
]

UNCAPPED = Caps()


@pytest.fixture
def source(tmp_path: Path) -> FileSource:
    path = tmp_path / "entities.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "{broken\n")
    return FileSource(path)


async def planned(steps: Steps, source: FileSource) -> tuple[Plan, float | None]:
    plan = Plan()
    with nothing_seen() as seen:
        planner = Planner(source.name, FLARE, output_format="webp", trial=False, seen=seen)
        async with steps.engine.connect() as connection:
            history = await History.read(connection)
            for batch in in_batches(source.read(), 3):
                for one in await planner.plan(connection, batch):
                    plan.add(one, history.expected(one.prepared) if one.prepared else 0)
            return plan, await planning.seconds_needed(
                connection, plan.by_type, plan.expected_by_type
            )


async def run(
    steps: Steps,
    source: FileSource,
    caps: Caps = UNCAPPED,
    *,
    wait: bool = False,
) -> Progress:
    with nothing_seen() as seen:
        planner = Planner(source.name, FLARE, output_format="webp", trial=False, seen=seen)
        backfill = Backfill(
            steps.engine,
            planner,
            TOPICS,
            trial=False,
            caps=caps,
            wanted=lambda _: True,
            still=1.0,
        )
        async for _ in backfill.run(in_batches(source.read(), 3), wait=wait):
            pass
    return backfill.progress


async def some_pictures(steps: Steps) -> None:
    """Entity 6 has one of ours, 7 one of the CMS's, and what 8 wants exists."""
    await steps.make(asked("6", "Anything"))
    await steps.execute("""
        INSERT INTO media_assets (cloudinary_public_id, cloudinary_url, cloudinary_secure_url,
            asset_type, entity_type, entity_id)
        VALUES ('photo', 'http://x/p.jpg', 'https://x/p.jpg', 'listing_image', 'listing', '7')
    """)
    await steps.make(asked("other", "Known"))


async def test_the_plan_says_what_becomes_of_every_entity(steps: Steps, source: FileSource) -> None:
    await some_pictures(steps)

    plan, seconds = await planned(steps, source)

    assert dict(plan.fates) == {
        Fate.GENERATE: 2,  # Villa and Haber
        Fate.JOIN: 1,
        Fate.PHOTO: 1,
        Fate.DUPLICATE: 1,
        Fate.INVALID: 2,
        Fate.DONE: 2,
        Fate.HIT: 1,
    }
    assert plan.entities == 10
    assert plan.contexts == 3
    assert plan.expected == 2 * COST < plan.bound
    assert seconds == 0
    assert len(plan.reasons) == 2
    assert "entities.jsonl:6: type: 'yacht' is not one of" in plan.reasons[0]
    assert "entities.jsonl:10: not JSON" in plan.reasons[1]
    assert (
        await steps.value("SELECT count(*) FROM imagepipe.requests WHERE source = 'backfill'") == 0
    )


async def test_the_outcome_is_the_plan_and_a_second_run_has_nothing_to_do(
    steps: Steps, source: FileSource, working: Generator
) -> None:
    await some_pictures(steps)
    plan, _ = await planned(steps, source)

    progress = await run(steps, source, wait=True)

    outcome = progress.outcome
    assert progress.plan.fates == plan.fates
    assert (outcome.generated, outcome.hits, outcome.failed, outcome.waiting) == (2, 2, 0, 0)
    assert progress.entered == 4
    again = await run(steps, source)
    assert again.entered == 0
    assert again.plan.fates[Fate.DONE] == 6
    assert await steps.value("SELECT count(*) FROM imagepipe.attempts") == 4


async def test_a_run_can_be_capped(steps: Steps, source: FileSource) -> None:
    one = await run(steps, source, Caps(purchases=1))
    assert (one.entered, one.plan.fates[Fate.GENERATE]) == (2, 1)  # Villa, for two entities
    assert one.capped == 4

    none = await run(steps, source, Caps(microusd=100))
    assert (none.entered, none.plan.fates[Fate.UNDERWAY]) == (0, 2)


async def test_parked_work_is_left_to_the_workers(
    steps: Steps, source: FileSource, working: Generator
) -> None:
    await steps.limit(global_limit(requests=1))

    progress = await run(steps, source)

    assert (progress.outcome.generated, progress.outcome.waiting) == (1, progress.outcome.parked)
    assert progress.outcome.parked > 0
    assert progress.seconds_blocked == progress.outcome.parked * 3600


async def test_the_time_it_takes_follows_the_slowest_limit(
    steps: Steps, source: FileSource
) -> None:
    await steps.limit(
        global_limit(requests=10),
        Limit("slow", "source:backfill", 600, 2, None),
        Limit("heroes", "type:hero", 600, 0, None),
    )
    plan, seconds = await planned(steps, source)
    assert plan.fates[Fate.GENERATE] == 5
    assert seconds == 1200  # two at once, two after ten minutes, one after twenty

    await steps.limit(global_limit(requests=0))
    assert (await planned(steps, source))[1] is None


async def test_live_events_go_before_a_backfill_of_five_hundred(steps: Steps) -> None:
    await steps.limit(
        global_limit(requests=20), Limit("share", "source:backfill", 3600, 10, None, derived=True)
    )
    batch = [asked(f"old {n}", f"Old {n}", source=Source.BACKFILL) for n in range(500)]
    await steps.ask(*batch)
    assert len((await steps.claim(slots=50)).claimed) == 10

    live = [asked(f"new {n}", f"New {n}") for n in range(12)]
    await steps.ask(*live)
    claimed: Sequence[Any] = (await steps.claim(slots=50)).claimed

    assert [one.job_id for one in claimed] == [request.id for request in live[:10]]
    assert (await steps.claim(slots=50)).claimed == []
