"""The outbox: messages written in the transaction that decided them, published afterwards."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.messages import Message, pack_headers, unpack_headers

SHARDS = 16
"""By the key's hash: one relay at a time holds a shard, so an entity's messages keep order."""

SHARD_LOCK = 0x696D6F62  # "imob": first key of the shards' advisory locks


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message not yet acknowledged by the broker."""

    id: int
    message: Message
    created_at: datetime


def shard_of(key: bytes | None) -> int:
    return zlib.crc32(key or b"") % SHARDS


async def add(connection: AsyncConnection, messages: Sequence[tuple[Message, UUID | None]]) -> None:
    """Write messages, each with the request it answers, to be published after the commit."""
    if not messages:
        return
    await connection.execute(
        text("""
            INSERT INTO imagepipe.outbox (shard, topic, key, value, headers, request_id)
            SELECT shard, topic, key, value, headers, request_id FROM unnest(
                CAST(:shards AS smallint[]), CAST(:topics AS text[]), CAST(:keys AS bytea[]),
                CAST(:values AS bytea[]), CAST(:headers AS text[]), CAST(:requests AS uuid[])
            ) WITH ORDINALITY AS new (shard, topic, key, value, headers, request_id, place)
            ORDER BY place
        """),
        {
            "shards": [shard_of(message.key) for message, _ in messages],
            "topics": [message.topic for message, _ in messages],
            "keys": [message.key for message, _ in messages],
            "values": [message.value for message, _ in messages],
            "headers": [pack_headers(message.headers) for message, _ in messages],
            "requests": [request for _, request in messages],
        },
    )


@dataclass(frozen=True, slots=True)
class Taken:
    """Messages to publish. `all_shards`: whether nobody else holds any."""

    messages: list[Outgoing]
    all_shards: bool


async def take(connection: AsyncConnection, *, limit: int) -> Taken:
    """The oldest unpublished messages of the shards nobody else holds.

    The shards stay ours until the transaction ends: publish, `mark`, then commit. The locks come
    in a statement of their own, so that the next one sees what their last holder has marked.

    The commit does not wait for the disk: a mark that a crash of the server takes back is a message
    published twice under one id, which consumers know.
    """
    locks = text("""
        SELECT shard, set_config('synchronous_commit', 'off', true)
        FROM generate_series(0, :last) AS shard
        WHERE pg_try_advisory_xact_lock(:lock, shard)
    """)
    held = (await connection.scalars(locks, {"lock": SHARD_LOCK, "last": SHARDS - 1})).all()
    rows = await connection.execute(
        text("""
            SELECT id, topic, key, value, headers, created_at FROM imagepipe.outbox
            WHERE published_at IS NULL AND shard = ANY(:held)
            ORDER BY id LIMIT :limit
        """),
        {"held": held, "limit": limit},
    )
    messages = [
        Outgoing(id_, Message(topic, key, value, unpack_headers(headers)), created_at)
        for id_, topic, key, value, headers, created_at in rows
    ]
    return Taken(messages, all_shards=len(held) == SHARDS)


async def mark(connection: AsyncConnection, ids: Sequence[int]) -> None:
    """The broker has acknowledged these messages."""
    await connection.execute(
        text("UPDATE imagepipe.outbox SET published_at = clock_timestamp() WHERE id = ANY(:ids)"),
        {"ids": list(ids)},
    )
