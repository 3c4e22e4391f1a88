"""Idempotency keys: the same key with the same body gets the same request, and so its answer.

A key belongs to the API key it came with and is kept for 24 hours. It is written in the
transaction that records the request: what was refused leaves no key behind.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import results
from pipeline.results import Result
from pipeline.rules.lifecycle import RequestState

KEPT_FOR = 86_400  # seconds


class KeyReused(Exception):
    """The key came with another body before."""


@dataclass(frozen=True, slots=True)
class Key:
    """`owner`: the API key's name; `fingerprint`: SHA-256 of the body."""

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class SavedAnswer:
    """What was answered to that key, to be said again."""

    status: int
    body: dict[str, Any]


async def claim(
    connection: AsyncConnection,
    key: Key,
    request_id: UUID,
    *,
    may_try_again: Callable[[Result], bool],
) -> UUID | SavedAnswer:
    """The request that the key stands for: `request_id` when it is new, or when the earlier one
    failed and `may_try_again`; else the earlier one, or what it was answered.

    Whoever comes with the same key meanwhile waits until this transaction ends. Raises `KeyReused`.
    """
    names = {"owner": key.owner, "key": key.key}
    await connection.execute(
        text("""
            DELETE FROM imagepipe.idempotency_keys WHERE owner = :owner AND key = :key
                AND created_at < clock_timestamp() - make_interval(secs => :kept)
        """),
        names | {"kept": KEPT_FOR},
    )
    row = (
        await connection.execute(
            text("""
                INSERT INTO imagepipe.idempotency_keys AS k (owner, key, fingerprint, request_id)
                VALUES (:owner, :key, :fingerprint, :request)
                ON CONFLICT (owner, key) DO UPDATE SET owner = k.owner  -- locks and returns it
                RETURNING fingerprint, request_id, status, answer
            """),
            names | {"fingerprint": key.fingerprint, "request": request_id},
        )
    ).one()
    if row.fingerprint != key.fingerprint:
        raise KeyReused
    if row.status is not None:
        return SavedAnswer(row.status, row.answer)
    if row.request_id == request_id:
        return request_id
    earlier = (await results.read(connection, [row.request_id])).get(row.request_id)
    if earlier and not (earlier.state is RequestState.FAILED and may_try_again(earlier)):
        return earlier.id
    await connection.execute(
        text("""
            UPDATE imagepipe.idempotency_keys SET request_id = :request
            WHERE owner = :owner AND key = :key
        """),
        names | {"request": request_id},
    )
    return request_id


async def save(
    connection: AsyncConnection, key: Key, request_id: UUID, status: int, body: dict[str, Any]
) -> None:
    """Keep the answer that the key got, in case the asset is deleted meanwhile."""
    await connection.execute(
        text("""
            UPDATE imagepipe.idempotency_keys SET status = :status, answer = CAST(:body AS jsonb)
            WHERE owner = :owner AND key = :key AND request_id = :request AND status IS NULL
        """),
        {
            "owner": key.owner,
            "key": key.key,
            "request": request_id,
            "status": status,
            "body": json.dumps(body),
        },
    )


async def forget_old(connection: AsyncConnection) -> None:
    """Remove keys that are past their time."""
    await connection.execute(
        text("""
            DELETE FROM imagepipe.idempotency_keys
            WHERE created_at < clock_timestamp() - make_interval(secs => :kept)
        """),
        {"kept": KEPT_FOR},
    )
