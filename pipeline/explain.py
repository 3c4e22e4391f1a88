"""The whole story of a request: what came in and was hashed, what was bought, what was said."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import operations
from pipeline.messages import unpack_headers
from pipeline.operations import Story
from pipeline.rules.fingerprint import canonical_form
from schemas.request import EntityType, ImageRequest

_HASH = re.compile(r"[0-9a-f]{64}")


class NothingFound(Exception):
    """There is no such request; the message says what was looked for."""


@dataclass(frozen=True, slots=True)
class Published:
    """A message about a request: when it was decided, and when the broker had it, if it has."""

    topic: str
    id: str
    created_at: Any
    published_at: Any


@dataclass(frozen=True, slots=True)
class Explained:
    """One request. `canonical`: what its context hash digests. `story`: its job, if it had one."""

    request: Row[Any]
    canonical: str
    story: Story | None
    asset: Row[Any] | None
    messages: list[Published]


async def explain(connection: AsyncConnection, word: str, *, limit: int) -> list[Explained]:
    """The requests that `word` means, the newest first: an entity (`listing:1001`), a request's id,
    or a context or prompt hash. Raises `NothingFound`."""
    ids = await _requests(connection, word, limit)
    if not ids:
        raise NothingFound(f"there is no request for {word!r}")
    return [await _explain_one(connection, id_) for id_ in ids]


async def _requests(connection: AsyncConnection, word: str, limit: int) -> Sequence[UUID]:
    kind, _, entity_id = word.partition(":")
    if entity_id and kind in set(EntityType):
        condition = "r.entity_type = :kind AND r.entity_id = :entity_id"
    elif _HASH.fullmatch(word):
        condition = "r.context_hash = :word OR r.prompt_hash = :word"
    elif _is_uuid(word):
        condition = "r.id = CAST(:word AS uuid)"
    else:
        raise NothingFound(
            f"{word!r} is neither an entity such as listing:1001, nor a request's id, nor a hash"
            " of 64 hexadecimal digits"
        )
    rows = await connection.scalars(
        text(
            f"SELECT r.id FROM imagepipe.requests r WHERE {condition}"
            " ORDER BY r.sequence DESC LIMIT :limit"
        ),
        {"word": word, "kind": kind, "entity_id": entity_id, "limit": limit},
    )
    return rows.all()


def _is_uuid(word: str) -> bool:
    try:
        UUID(word)
    except ValueError:
        return False
    return True


async def _explain_one(connection: AsyncConnection, id_: UUID) -> Explained:
    request = (
        await connection.execute(
            text("SELECT * FROM imagepipe.requests WHERE id = :id"), {"id": id_}
        )
    ).one()
    story = await operations.story(connection, request.job_id) if request.job_id else None
    asset = await connection.execute(
        text("""
            SELECT id, cloudinary_public_id, cloudinary_secure_url, width, height, format, bytes,
                   usage_count, created_at, generation_metadata
            FROM media_assets WHERE id = :id
        """),
        {"id": request.asset_id},
    )
    messages = await connection.execute(
        text("""
            SELECT topic, headers, created_at, published_at FROM imagepipe.outbox
            WHERE request_id = :id ORDER BY id
        """),
        {"id": id_},
    )
    return Explained(
        request,
        _canonical(request),
        story,
        asset.one_or_none(),
        [_published(row) for row in messages],
    )


def _canonical(request: Row[Any]) -> str:
    try:
        return canonical_form(ImageRequest.from_wire(request.data), request.hash_version).decode()
    except (ValidationError, KeyError):
        return "of an older release"


def _published(row: Row[Any]) -> Published:
    id_ = dict(unpack_headers(row.headers)).get("ce_id") or b""
    return Published(row.topic, id_.decode(), row.created_at, row.published_at)
