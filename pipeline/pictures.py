"""The pictures that were made, for those who browse them: newest first, page by page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.assets import USABLE
from schemas import api
from schemas.outcomes import Model
from schemas.request import Entity, EntityType, ImageType
from schemas.wire import usd

MOST_IN_A_PAGE = 100
CURSOR = r"^[0-9]{16}-[0-9a-f]{32}$"  # microseconds since 1970, and an id
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_COLUMNS = """
    a.id, a.cloudinary_public_id, a.cloudinary_secure_url, a.width, a.height, a.format, a.bytes,
    a.alt_text, a.title, a.entity_type, a.entity_id, a.context_hash, a.prompt_hash, a.usage_count,
    a.created_at, a.generation_metadata AS made
"""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which pictures; None: any. `day` is a calendar day in `timezone`."""

    entity_type: EntityType | None = None
    entity_id: str | None = None
    type: ImageType | None = None
    day: date | None = None
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins: after this picture."""

    created_at: datetime
    id: UUID

    @classmethod
    def parse(cls, word: str) -> Self:
        """Of a word that matches `CURSOR`."""
        micros, _, id_ = word.partition("-")
        return cls(EPOCH + timedelta(microseconds=int(micros)), UUID(id_))

    def __str__(self) -> str:
        micros = (self.created_at - EPOCH) // timedelta(microseconds=1)
        return f"{micros:016}-{self.id.hex}"


async def page(
    connection: AsyncConnection,
    wanted: Filter,
    *,
    after: Cursor | None,
    limit: int,
    trial: bool,
) -> api.Images:
    """One page. By entity, whatever pictures it was given, whoever they were made for first."""
    rows = await connection.execute(
        text(f"""
            SELECT {_COLUMNS} FROM media_assets a
            WHERE {USABLE}
              AND (CAST(:after_at AS timestamptz) IS NULL
                   OR (a.created_at, a.id) < (:after_at, CAST(:after_id AS uuid)))
              AND (CAST(:day AS date) IS NULL
                   OR a.created_at >= CAST(CAST(:day AS date) AS timestamp) AT TIME ZONE :zone
                  AND a.created_at < CAST(CAST(:day AS date) + 1 AS timestamp) AT TIME ZONE :zone)
              AND (CAST(:type AS text) IS NULL OR a.generation_metadata ->> 'type' = :type)
              AND (CAST(:entity_type AS text) IS NULL AND CAST(:entity_id AS text) IS NULL
                   OR a.id IN (
                       SELECT e.asset_id FROM imagepipe.entity_images e
                       WHERE (CAST(:entity_type AS text) IS NULL OR e.entity_type = :entity_type)
                         AND (CAST(:entity_id AS text) IS NULL OR e.entity_id = :entity_id)))
            ORDER BY a.created_at DESC, a.id DESC LIMIT :limit
        """),
        {
            "trial": trial,
            "after_at": after and after.created_at,
            "after_id": after and after.id,
            "day": wanted.day,
            "zone": wanted.timezone,
            "type": wanted.type and wanted.type.value,
            "entity_type": wanted.entity_type and wanted.entity_type.value,
            "entity_id": wanted.entity_id,
            "limit": limit + 1,
        },
    )
    found = rows.all()
    return api.Images(images=[_image(row) for row in found[:limit]], next=_next(found, limit))


async def one(connection: AsyncConnection, asset_id: UUID, *, trial: bool) -> api.Image | None:
    """A picture of ours; the CMS's own photos are none."""
    row = (
        await connection.execute(
            text(f"SELECT {_COLUMNS} FROM media_assets a WHERE a.id = :id AND {USABLE}"),
            {"id": asset_id, "trial": trial},
        )
    ).one_or_none()
    return None if row is None else _image(row)


def _next(rows: Sequence[Row[Any]], limit: int) -> str | None:
    if len(rows) <= limit:
        return None
    last = rows[limit - 1]
    return str(Cursor(last.created_at, last.id))


def _image(row: Row[Any]) -> api.Image:
    made = row.made
    return api.Image(
        id=row.id,
        public_id=row.cloudinary_public_id,
        url=row.cloudinary_secure_url,
        width=row.width,
        height=row.height,
        format=row.format,
        bytes=row.bytes,
        alt=row.alt_text,
        title=row.title,
        type=made.get("type"),
        entity=_entity(row),
        model=Model(name=made["model"], size=made["size"], quality=made["quality"]),
        cost=usd(made["costMicroUsd"]),
        revised_prompt=made.get("revisedPrompt"),
        context_hash=row.context_hash,
        prompt_hash=row.prompt_hash,
        sha256=made["sha256"],
        usage_count=row.usage_count or 0,
        created_at=row.created_at,
    )


def _entity(row: Row[Any]) -> Entity | None:
    """The row is the CMS's: it may have given the picture to something that we do not know."""
    try:
        return Entity(type=EntityType(row.entity_type), id=row.entity_id)
    except ValueError:
        return None
