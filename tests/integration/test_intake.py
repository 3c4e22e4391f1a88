"""One batch of requests in one transaction: what is new, known, joined, or answered at once."""

import asyncio

from pipeline import completion, intake
from pipeline.rules.lifecycle import Source
from tests.integration.builders import DALL_E, SUNBURST, TOPICS, Steps, asked

JOBS = "SELECT count(*) FROM imagepipe.jobs"
PHOTO = """
    INSERT INTO media_assets (cloudinary_public_id, cloudinary_url, cloudinary_secure_url,
        asset_type, ai_generated, context_hash, prompt_hash)
    VALUES (:id, 'http://x/p.jpg', 'https://x/p.jpg', 'listing_image', :ai, :context, :prompt)
"""


async def test_a_batch_opens_joins_answers_and_keeps_its_order(steps: Steps) -> None:
    await steps.make(asked("existing", "Deniz Manzarali"))

    recorded = await steps.ask(
        asked("a", "Villa"),
        asked("b", "Deniz Manzarali"),
        asked("c", "Villa"),
        asked("a", "Something else under a known id"),
    )

    assert (recorded.new, recorded.hits, recorded.waiting) == (3, 1, 2)
    rows = await steps.rows("SELECT event_id, state FROM imagepipe.requests ORDER BY sequence")
    assert [tuple(row) for row in rows] == [
        ("existing", "ready"),
        ("a", "waiting"),
        ("b", "ready"),
        ("c", "waiting"),
    ]
    assert await steps.value(JOBS + " WHERE state = 'queued'") == 1
    [_, hit] = await steps.said("image-ready")
    assert (hit.key, hit.data["cached"]) == ("listing:b", True)
    assert hit.data["cost"] == {"usd": 0, "basis": "cached"}


async def test_a_redelivery_changes_nothing(steps: Steps) -> None:
    await steps.make(asked("a"))
    await steps.ask(asked("b"))
    before = await _everything(steps)

    again = await steps.ask(asked("b"), asked("a"))

    assert (again.new, again.hits, again.waiting) == (0, 0, 0)
    assert await _everything(steps) == before


async def _everything(steps: Steps) -> list[object]:
    tables = "media_assets", "imagepipe.requests", "imagepipe.jobs", "imagepipe.outbox"
    return [await steps.rows(f"SELECT * FROM {table} ORDER BY 1") for table in tables]


async def test_every_hit_is_counted_and_leaves_the_entitys_picture(steps: Steps) -> None:
    await steps.make(asked("a"))

    await steps.ask(asked("b"), asked("c"))

    asset = await steps.row("SELECT id, usage_count, last_used_at FROM media_assets")
    assert asset.usage_count == 3
    assert asset.last_used_at is not None
    links = await steps.rows(
        "SELECT entity_id, asset_id, cached FROM imagepipe.entity_images ORDER BY entity_id"
    )
    assert [tuple(link) for link in links] == [
        ("a", asset.id, False),
        ("b", asset.id, True),
        ("c", asset.id, True),
    ]


async def test_skip_cache_is_bought_once_per_event_and_never_joined(steps: Steps) -> None:
    await steps.make(asked("existing"))

    await steps.ask(asked("fresh", skipCache=True))
    await steps.ask(asked("fresh", skipCache=True))
    await steps.ask(asked("fresh too", skipCache=True))
    plain = await steps.ask(asked("plain"))

    assert plain.hits == 1
    assert await steps.value(JOBS + " WHERE state = 'queued' AND NOT joinable") == 2


async def test_a_plain_request_does_not_join_a_skip_cache_job(steps: Steps) -> None:
    await steps.ask(asked("fresh", skipCache=True), asked("plain"))

    assert await steps.value("SELECT count(DISTINCT job_id) FROM imagepipe.requests") == 2


async def test_other_contexts_with_the_same_prompt_share_a_job(steps: Steps) -> None:
    one = asked("a", context={"title": "Villa"})
    other = asked("b", context={"title": "Villa", "slug": "not a thing one can see"})
    assert one.context_hash != other.context_hash
    assert one.prompt_hash == other.prompt_hash

    together = await steps.ask(one, other)
    later = await steps.ask(asked("c", context={"title": "Villa", "slug": "another"}))

    assert (together.waiting, later.waiting) == (2, 1)
    assert await steps.value(JOBS) == 1


async def test_the_same_context_joins_whatever_model_it_was_prepared_for(steps: Steps) -> None:
    await steps.ask(asked("a"))
    await steps.ask(asked("b", model=SUNBURST), asked("c", model=DALL_E))

    assert await steps.value(JOBS) == 1
    assert await steps.value("SELECT count(job_id) FROM imagepipe.requests") == 3


async def test_joining_raises_a_job_to_its_guests_source_and_priority(steps: Steps) -> None:
    await steps.ask(asked("a", source=Source.BACKFILL))
    await steps.ask(asked("b", source=Source.LIVE))
    await steps.ask(asked("c", source=Source.BACKFILL))

    job = await steps.row("SELECT source, priority FROM imagepipe.jobs")
    assert tuple(job) == ("live", Source.LIVE.priority)


async def test_rows_of_the_cms_never_answer(steps: Steps) -> None:
    request = asked("a")
    hashes = {"context": request.context_hash, "prompt": request.prompt_hash}
    await steps.execute(PHOTO, id="photo", ai=False, context=None, prompt=None)
    await steps.execute(PHOTO, id="photo with hashes", ai=False, **hashes)
    await steps.execute(PHOTO, id="another generator's", ai=True, **hashes)

    recorded = await steps.ask(request)

    assert (recorded.hits, recorded.waiting) == (0, 1)
    assert await steps.value("SELECT sum(usage_count) FROM media_assets") == 0


async def test_stand_ins_never_answer_live_requests_but_live_pictures_answer_trials(
    steps: Steps,
) -> None:
    await steps.make(asked("trial", "Stand-in"), trial=True)
    await steps.make(asked("live", "Real"))

    live = await steps.ask(asked("a", "Stand-in"))
    trial = await steps.ask(asked("b", "Stand-in"), asked("c", "Real"), trial=True)

    assert (live.hits, live.waiting) == (0, 1)
    assert (trial.hits, trial.waiting) == (2, 0)


async def test_a_picture_that_the_cms_deleted_is_a_miss_and_harms_nobody(steps: Steps) -> None:
    await steps.make(asked("a"))
    await steps.ask(asked("b"))

    await steps.execute("DELETE FROM media_assets")
    recorded = await steps.ask(asked("c"))

    assert (recorded.hits, recorded.waiting) == (0, 1)
    gone = await steps.row("""
        SELECT (SELECT count(*) FROM imagepipe.requests WHERE state = 'ready') AS ready,
               (SELECT count(asset_id) FROM imagepipe.requests) AS of_requests,
               (SELECT count(asset_id) FROM imagepipe.jobs) AS of_jobs,
               (SELECT count(asset_id) FROM imagepipe.entity_images) AS of_entities,
               (SELECT count(media_asset_id) FROM ai_image_generation_logs) AS of_logs
    """)
    assert tuple(gone) == (2, 0, 0, 0, 0)
    assert all(said.data["asset"]["url"] for said in await steps.said("image-ready"))


async def test_completion_waits_for_a_joining_request_and_answers_it(steps: Steps) -> None:
    await steps.ask(asked("opener"))
    claimed = await steps.claim_one()
    await steps.keep(claimed)

    async with steps.engine.begin() as joining:
        await intake.record(joining, [asked("guest")], topics=TOPICS, trial=False)
        finishing = asyncio.create_task(steps.complete(claimed.job_id))
        await steps.until_blocked()
    await finishing

    ready = await steps.said("image-ready")
    assert [(said.key, said.data["cached"]) for said in ready] == [
        ("listing:opener", False),
        ("listing:guest", True),
    ]


async def test_a_request_that_waits_for_completion_finds_the_picture(steps: Steps) -> None:
    await steps.ask(asked("opener"))
    claimed = await steps.claim_one()
    await steps.keep(claimed)
    stored = await steps.hosted(claimed.job_id)

    async with steps.engine.begin() as finishing:
        await completion.complete(finishing, claimed.job_id, stored, TOPICS, trial=False)
        joining = asyncio.create_task(steps.ask(asked("guest")))
        await steps.until_blocked()
    recorded = await joining

    assert (recorded.hits, recorded.waiting) == (1, 0)
    assert await steps.value(JOBS) == 1
    ready = await steps.said("image-ready")
    assert [said.data["cached"] for said in ready] == [False, True]


async def test_a_picture_finished_between_look_up_and_joining_is_a_hit(steps: Steps) -> None:
    """The look-up came too early for the asset, the joining too late for the job."""
    await steps.ask(asked("opener"))
    claimed = await steps.claim_one()
    await steps.keep(claimed)

    async with steps.engine.connect() as rival:  # records the same event, and then gives it up
        await intake.record(rival, [asked("guest", "Villa")], topics=TOPICS, trial=False)
        between = asyncio.create_task(steps.ask(asked("guest")))
        await steps.until_blocked()
        await steps.complete(claimed.job_id)
        await rival.rollback()
    recorded = await between

    assert (recorded.hits, recorded.waiting) == (1, 0)
    assert await steps.value(JOBS) == 1
