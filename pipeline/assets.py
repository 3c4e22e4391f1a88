"""Queries on the CMS's `media_assets` and logs, and on which entity got which picture."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.requests import Asker
from pipeline.rules.pricing import ceil_to_cents4
from pipeline.tables import media_assets

ASSET_TYPES = {
    "listing": "listing_image",
    "article": "blog_image",
    "news": "blog_image",
    "neighborhood": "neighborhood_image",
}
"""By the entity's type (or the request's, when it names no entity); the rest is `other`."""


@dataclass(frozen=True, slots=True)
class StoredAsset:
    """A generated picture that can answer requests, as its `media_assets` row says."""

    id: UUID
    public_id: str
    url: str
    width: int
    height: int
    format: str
    bytes: int
    context_hash: str
    prompt_hash: str
    created_at: datetime
    sha256: str
    model: str
    size: str
    quality: str
    revised_prompt: str | None
    cost_microusd: int


ASSET = """
    a.id, a.cloudinary_public_id AS public_id, a.cloudinary_secure_url AS url, a.width, a.height,
    a.format, a.bytes, a.context_hash, a.prompt_hash, a.created_at,
    a.generation_metadata ->> 'sha256' AS sha256, a.generation_metadata ->> 'model' AS model,
    a.generation_metadata ->> 'size' AS size, a.generation_metadata ->> 'quality' AS quality,
    a.generation_metadata ->> 'revisedPrompt' AS revised_prompt,
    CAST(a.generation_metadata ->> 'costMicroUsd' AS bigint) AS cost_microusd
"""
"""The columns of a `StoredAsset`, in order, of a table called a."""

USABLE = """
    a.ai_generated AND a.generation_metadata ? 'job'
    AND (:trial OR NOT coalesce(CAST(a.generation_metadata ->> 'trial' AS boolean), false))
"""
"""Pictures that we made; stand-ins of a trial never answer live requests."""


class Found:
    """Assets by the hashes they answer; the newest where there are several."""

    def __init__(self, assets: Iterable[StoredAsset]) -> None:
        ordered = sorted(assets, key=lambda asset: (asset.created_at, asset.id))
        self._by_context = {asset.context_hash: asset for asset in ordered}
        self._by_prompt = {asset.prompt_hash: asset for asset in ordered}

    def get(self, context_hashes: Iterable[str], prompt_hash: str) -> StoredAsset | None:
        """By context hash, then by prompt hash."""
        for context_hash in context_hashes:
            if asset := self._by_context.get(context_hash):
                return asset
        return self._by_prompt.get(prompt_hash)


async def find(
    connection: AsyncConnection,
    context_hashes: Sequence[str],
    prompt_hashes: Sequence[str],
    *,
    trial: bool,
    lock: bool = True,
) -> Found:
    """Usable assets with any of the hashes, locked in id order until the transaction ends.

    The lock makes a hit real: a row that the CMS deletes meanwhile is not among them. Who only
    looks takes none.
    """
    if not prompt_hashes:
        return Found(())
    rows = await connection.execute(
        text(f"""
            SELECT {ASSET} FROM media_assets a
            WHERE a.id = ANY(ARRAY(
                SELECT id FROM media_assets
                WHERE ai_generated AND context_hash = ANY(CAST(:context_hashes AS text[]))
                UNION ALL
                SELECT id FROM media_assets
                WHERE ai_generated AND prompt_hash = ANY(CAST(:prompt_hashes AS text[]))
            )) AND {USABLE}
            ORDER BY a.id {"FOR NO KEY UPDATE" if lock else ""}
        """),
        {
            "context_hashes": list(context_hashes),
            "prompt_hashes": list(prompt_hashes),
            "trial": trial,
        },
    )
    return Found(StoredAsset(*row) for row in rows)


async def count_uses(connection: AsyncConnection, uses: Mapping[UUID, int]) -> None:
    """Add to the usage counts of assets that `find` has locked."""
    await connection.execute(
        text("""
            UPDATE media_assets a
            SET usage_count = coalesce(a.usage_count, 0) + new.uses, last_used_at = now()
            FROM unnest(CAST(:ids AS uuid[]), CAST(:uses AS integer[])) AS new (id, uses)
            WHERE a.id = new.id
        """),
        {"ids": list(uses), "uses": list(uses.values())},
    )


async def link_entities(
    connection: AsyncConnection, links: Sequence[tuple[Asker, UUID, bool]]
) -> None:
    """Record which entity got which asset, and whether for nothing (asker, asset, cached)."""
    named = [link for link in links if link[0].entity_type and link[0].entity_id]
    if not named:
        return
    await connection.execute(
        text("""
            INSERT INTO imagepipe.entity_images
                (request_id, entity_type, entity_id, asset_id, alt, cached)
            SELECT * FROM unnest(
                CAST(:ids AS uuid[]), CAST(:types AS text[]), CAST(:entities AS text[]),
                CAST(:assets AS uuid[]), CAST(:alts AS text[]), CAST(:cached AS boolean[]))
            ON CONFLICT DO NOTHING
        """),
        {
            "ids": [asker.id for asker, _, _ in named],
            "types": [asker.entity_type for asker, _, _ in named],
            "entities": [asker.entity_id for asker, _, _ in named],
            "assets": [asset for _, asset, _ in named],
            "alts": [asker.alt for asker, _, _ in named],
            "cached": [cached for _, _, cached in named],
        },
    )


async def store(connection: AsyncConnection, values: Mapping[str, Any]) -> StoredAsset:
    """Insert an asset under its public id, or find the one that is there already."""
    await connection.execute(
        insert(media_assets)
        .values(**values)
        .on_conflict_do_nothing(index_elements=["cloudinary_public_id"])
    )
    row = (
        await connection.execute(
            text(f"SELECT {ASSET} FROM media_assets a WHERE a.cloudinary_public_id = :id"),
            {"id": values["cloudinary_public_id"]},
        )
    ).one()
    return StoredAsset(*row)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One paid attempt, or one failure. `id` is the attempt's, `cost` in micro-dollars."""

    id: UUID
    type: str
    size: str  # the specification's words
    quality: str
    cost: int
    error: str | None
    prompt_hash: str
    context_hash: str


async def write_log(connection: AsyncConnection, entries: Sequence[LogEntry]) -> None:
    """Write or correct the attempts' rows (an unknown outcome may turn out a success)."""
    await connection.execute(
        text("""
            INSERT INTO ai_image_generation_logs AS l
                (id, generation_type, image_size, image_quality, cost, success, error_message,
                 prompt_hash, context_hash, created_at)
            VALUES (:id, :type, :size, :quality, :cost, :success, :error, :prompt_hash,
                    :context_hash, now())
            ON CONFLICT (id) DO UPDATE
            SET cost = excluded.cost, success = excluded.success,
                error_message = excluded.error_message
        """),
        [
            {
                "id": entry.id,
                "type": entry.type,
                "size": entry.size,
                "quality": entry.quality,
                "cost": ceil_to_cents4(entry.cost),
                "success": entry.error is None,
                "error": entry.error,
                "prompt_hash": entry.prompt_hash,
                "context_hash": entry.context_hash,
            }
            for entry in entries
        ],
    )


async def link_log(connection: AsyncConnection, attempt_id: UUID, asset_id: UUID) -> None:
    """The log row of the attempt that bought an asset points to it."""
    await connection.execute(
        text("UPDATE ai_image_generation_logs SET media_asset_id = :asset WHERE id = :id"),
        {"asset": asset_id, "id": attempt_id},
    )
