"""The end of a job: the CMS's rows, the entity's picture, and an answer for everybody."""

from typing import Any

import pytest

from pipeline import completion
from pipeline.errors import Closed, Retryable, Throttled
from tests.integration.builders import COST, TOPICS, Steps, asked, picture


async def test_the_asset_says_what_was_made_for_whom_and_how(steps: Steps) -> None:
    request = asked(
        "7",
        "Deniz Manzaralı Daire",
        options={"size": "1792x1024", "quality": "hd"},
        upload={"entityType": "listing", "entityId": "7", "alt": "Balkondan deniz"},
    )

    await steps.make(request)

    asset = await steps.row("SELECT * FROM media_assets")
    assert (asset.asset_type, asset.entity_type, asset.entity_id) == (
        "listing_image",
        "listing",
        "7",
    )
    assert (asset.alt_text, asset.alt_text_generated) == ("Balkondan deniz", False)
    assert asset.title == "Deniz Manzaralı Daire"
    facts = picture().facts
    assert (asset.width, asset.height, asset.format) == (facts.width, facts.height, "webp")
    assert asset.cloudinary_secure_url.startswith("https://media.example/")
    assert facts.sha256[:12] in asset.cloudinary_public_id
    assert (asset.ai_generated, asset.usage_count) == (True, 1)
    assert (asset.context_hash, asset.prompt_hash) == (request.context_hash, request.prompt_hash)
    assert int(asset.generation_cost * 1_000_000) == COST + 30  # rounded up: numeric(10,4)
    made = asset.generation_metadata
    assert made["prompt"] == request.call.prompt
    assert made["revisedPrompt"] == "a revised prompt"
    assert (made["model"], made["size"], made["quality"]) == (
        request.call.model,
        "1792x1024",
        "high",
    )
    assert made["options"] == {"size": "1792x1024", "quality": "hd", "style": "natural"}
    assert made["usage"] == {"text_tokens": 20, "image_tokens": 0, "output_tokens": 439}
    assert (made["costMicroUsd"], made["costBasis"]) == (COST, "actual")
    assert made["job"] == str(request.id)


@pytest.mark.parametrize(
    ("fields", "asset_type"),
    [
        ({"type": "article", "upload": {"entityType": "news", "entityId": "1"}}, "blog_image"),
        ({"type": "article", "upload": {"entityType": "article", "entityId": "1"}}, "blog_image"),
        (
            {"type": "hero", "upload": {"entityType": "neighborhood", "entityId": "1"}},
            "neighborhood_image",
        ),
        ({"type": "listing", "upload": {"entityType": "other", "entityId": "1"}}, "other"),
    ],
)
async def test_the_asset_type_is_one_that_the_cms_knows(
    steps: Steps, fields: dict[str, Any], asset_type: str
) -> None:
    await steps.make(asked("1", **fields))

    assert await steps.value("SELECT asset_type FROM media_assets") == asset_type


async def test_everybody_who_waits_is_answered_and_one_pays(steps: Steps) -> None:
    await steps.make(asked("a"), asked("b"), asked("c"))

    ready = await steps.said("image-ready")
    assert [(said.key, said.data["cached"]) for said in ready] == [
        ("listing:a", False),
        ("listing:b", True),
        ("listing:c", True),
    ]
    assert ready[0].data["cost"]["usd"] * 1_000_000 == pytest.approx(COST)
    assert [said.data["cost"]["usd"] for said in ready[1:]] == [0, 0]
    assert {said.data["alt"] for said in ready} == {"Modern Daire"}
    requests = await steps.rows("SELECT state, cached FROM imagepipe.requests ORDER BY sequence")
    assert [tuple(request) for request in requests] == [
        ("ready", False),
        ("ready", True),
        ("ready", True),
    ]
    links = await steps.rows("SELECT cached FROM imagepipe.entity_images ORDER BY entity_id")
    assert [link.cached for link in links] == [False, True, True]


async def test_the_log_points_to_the_asset_and_the_spool_is_empty(steps: Steps) -> None:
    await steps.make(asked("a"))

    asset = await steps.value("SELECT id FROM media_assets")
    assert await steps.value("SELECT media_asset_id FROM ai_image_generation_logs") == asset
    assert await steps.value("SELECT asset_id FROM imagepipe.jobs WHERE state = 'done'") == asset
    assert await steps.value("SELECT count(*) FROM imagepipe.image_spool") == 0


async def test_a_job_is_completed_once(steps: Steps) -> None:
    await steps.ask(asked("a"))
    claimed = await steps.claim_one()
    await steps.keep(claimed)
    stored = await steps.hosted(claimed.job_id)
    await steps.complete(claimed.job_id)

    async with steps.engine.begin() as connection:
        again = await completion.complete(connection, claimed.job_id, stored, TOPICS, trial=False)

    assert again == []
    assert len(await steps.said("image-ready")) == 1
    assert await steps.value("SELECT usage_count FROM media_assets") == 1


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (Retryable("unavailable", "busy"), 0, 2),
        (Throttled("rate_limit", "wait", delay=90), 88, 90),
        (Closed("unauthorized", "wrong secret"), 298, 300),
    ],
)
async def test_a_picture_that_the_host_refuses_stays_and_is_offered_again(
    steps: Steps, error: Retryable, least: float, most: float
) -> None:
    await steps.ask(asked("a"))
    claimed = await steps.claim_one()
    await steps.keep(claimed)

    async with steps.engine.begin() as connection:
        await completion.upload_failed(connection, claimed.job_id, error)

    job = await steps.row("""
        SELECT state, error_code, upload_tries, lease,
               extract(epoch FROM due_at - clock_timestamp()) AS delay FROM imagepipe.jobs
    """)
    assert (job.state, job.error_code, job.upload_tries) == ("generated", error.code, 1)
    assert job.lease is None
    assert least <= job.delay <= most
    assert await steps.value("SELECT count(*) FROM imagepipe.image_spool") == 1
    assert await steps.said() == []
