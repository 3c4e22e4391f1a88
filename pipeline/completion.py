"""The end of a job: its picture uploaded, its asset stored, everybody answered.

Each function is one step in the caller's transaction.
"""

import random
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import answers, assets, jobs, notices, outbox, requests
from pipeline.answers import FREE, Price, Topics
from pipeline.assets import ASSET_TYPES, StoredAsset
from pipeline.errors import OutsideError
from pipeline.ports import StoredImage
from pipeline.requests import Asker
from pipeline.rules.lifecycle import JobState, sources_of
from pipeline.rules.pricing import ceil_to_cents4
from pipeline.rules.retries import upload_delay
from schemas.request import ImageRequest


async def upload_failed(connection: AsyncConnection, job_id: UUID, error: OutsideError) -> None:
    """The media host did not take the picture: it stays in the spool and is tried again."""
    job = await jobs.load(connection, job_id)
    delay = upload_delay(error, job.upload_tries, jitter=random.random())  # noqa: S311
    await connection.execute(
        text("""
            UPDATE imagepipe.jobs
            SET upload_tries = upload_tries + 1, lease = NULL, lease_until = NULL,
                due_at = clock_timestamp() + make_interval(secs => :delay),
                error_code = :code, error_message = :message
            WHERE id = :id AND state = 'generated'
        """),
        {"id": job_id, "delay": delay, "code": error.code, "message": error.message},
    )


async def complete(
    connection: AsyncConnection, job_id: UUID, stored: StoredImage, topics: Topics, *, trial: bool
) -> list[Asker]:
    """Store the asset, end the job and answer everybody who waits; none when it was done."""
    job = await jobs.load(connection, job_id)
    if not await _finish(connection, job_id):
        return []
    bought = (
        await connection.execute(
            text("""
                SELECT a.*, s.sha256
                FROM imagepipe.image_spool s JOIN imagepipe.attempts a ON a.id = s.attempt_id
                WHERE s.job_id = :job
            """),
            {"job": job_id},
        )
    ).one()
    asset = await assets.store(connection, _asset_values(job, bought, stored, trial=trial))
    price = Price(bought.cost_microusd, bought.cost_basis)
    answered = await _answer_ready(connection, job_id, asset, topics, first=price)
    await assets.link_log(connection, bought.id, asset.id)
    await connection.execute(
        text("DELETE FROM imagepipe.image_spool WHERE job_id = :job"), {"job": job_id}
    )
    return answered


async def answer_from(
    connection: AsyncConnection, job_id: UUID, asset: StoredAsset, topics: Topics
) -> None:
    """End a queued job whose picture exists meanwhile."""
    if await _finish(connection, job_id):
        await _answer_ready(connection, job_id, asset, topics, first=FREE)


async def _finish(connection: AsyncConnection, job_id: UUID) -> bool:
    """The job row goes first: whoever joins it from now on looks for the asset instead."""
    done = await connection.execute(
        text("""
            UPDATE imagepipe.jobs
            SET state = 'done', lease = NULL, lease_until = NULL, error_code = NULL,
                error_message = NULL, finished_at = clock_timestamp()
            WHERE id = :id AND state = ANY(:sources)
        """),
        {"id": job_id, "sources": [state.value for state in sources_of(JobState.DONE)]},
    )
    return done.rowcount > 0


async def _answer_ready(
    connection: AsyncConnection, job_id: UUID, asset: StoredAsset, topics: Topics, *, first: Price
) -> list[Asker]:
    """Answer all who wait: the first pays `first`, the others nothing."""
    await connection.execute(
        text("UPDATE imagepipe.jobs SET asset_id = :asset WHERE id = :id"),
        {"asset": asset.id, "id": job_id},
    )
    waiting = await requests.waiting_for(connection, job_id)
    if not waiting:
        return []
    prices = [first] + [FREE] * (len(waiting) - 1)
    paid = [asker.id for asker, price in zip(waiting, prices, strict=True) if price is not FREE]
    cached = [asker.id for asker in waiting if asker.id not in paid]
    await requests.finish_ready(connection, asset.id, paid=paid, cached=cached)
    await assets.count_uses(connection, {asset.id: len(waiting)})
    await assets.link_entities(
        connection,
        [(asker, asset.id, price is FREE) for asker, price in zip(waiting, prices, strict=True)],
    )
    await outbox.add(
        connection,
        [
            (answers.ready(topics, asker, asset, price), asker.id)
            for asker, price in zip(waiting, prices, strict=True)
        ],
    )
    await notices.tell_finished(connection, waiting)
    return waiting


def _asset_values(
    job: Row[Any], bought: Row[Any], stored: StoredImage, *, trial: bool
) -> dict[str, Any]:
    """The `media_assets` row: what the host answered, and how the picture came about."""
    request = ImageRequest.from_wire(job.data)
    entity = request.upload.entity
    kind = entity.type.value if entity else request.type.value
    return {
        "cloudinary_public_id": stored.public_id,
        "cloudinary_url": stored.url,
        "cloudinary_secure_url": stored.secure_url,
        "asset_type": ASSET_TYPES.get(kind, "other"),
        "entity_type": entity.type.value if entity else None,
        "entity_id": entity.id if entity else None,
        "width": stored.width,
        "height": stored.height,
        "format": stored.format,
        "bytes": stored.bytes,
        "alt_text": request.alt.text,
        "alt_text_generated": request.alt.generated,
        "title": request.context.title or request.context.name,
        "prompt_hash": job.prompt_hash,
        "context_hash": job.context_hash,
        "generation_cost": ceil_to_cents4(bought.cost_microusd),
        "ai_generated": True,
        "generation_metadata": {
            "job": str(job.id),
            "type": job.type,
            "attempt": str(bought.id),
            "prompt": job.prompt,
            "revisedPrompt": bought.revised_prompt,
            "model": job.model,
            "size": job.size,
            "quality": job.quality,
            "style": job.style,
            "outputFormat": job.output_format,
            "options": request.options.model_dump(mode="json"),
            "usage": bought.usage,
            "costMicroUsd": bought.cost_microusd,
            "costBasis": bought.cost_basis,
            "providerRequestId": bought.provider_request_id,
            "sha256": bought.sha256,
            "hashVersion": job.hash_version,
            "trial": trial,
        },
    }
