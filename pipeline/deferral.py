"""Telling those who wait: `image-deferred`, once per request and wait.

Nobody is woken one by one afterwards: the head of the queue is tried whenever workers look, and
goes as soon as its windows have room.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import answers, ledger, outbox
from pipeline.answers import Topics
from pipeline.claims import Head
from pipeline.requests import ASKER, Asker
from pipeline.rules.limits import Purchase

ASKER_COLUMNS = len(ASKER.split(","))


async def announce_waiting(
    connection: AsyncConnection, heads: Mapping[str, Head], *, topics: Topics, limit: int = 500
) -> int:
    """Defer up to `limit` requests that wait behind one of `heads` (by closed scope), or whose
    purchase could never fit; returns how many. Looks without the ledger's lock."""
    rows = await connection.execute(
        text(f"""
            SELECT {ASKER}, j.source, j.type, j.bound_microusd
            FROM imagepipe.requests r JOIN imagepipe.jobs j ON j.id = r.job_id
            WHERE r.state = 'waiting' AND r.deferred_at IS NULL
              AND j.state = 'queued' AND j.due_at <= clock_timestamp()
              AND (ARRAY['global', 'source:' || j.source, 'type:' || j.type]
                       && CAST(:closed AS text[])
                   OR EXISTS (
                       SELECT FROM imagepipe.limits l
                       WHERE l.scope IN ('global', 'source:' || j.source, 'type:' || j.type)
                         AND (l.max_requests < 1 OR l.max_microusd < j.bound_microusd)))
            ORDER BY r.sequence LIMIT :limit
            FOR UPDATE OF r SKIP LOCKED FOR NO KEY UPDATE OF j SKIP LOCKED
        """),
        {"closed": list(heads), "limit": limit},
    )
    waiting = rows.all()
    if not waiting:
        return 0
    messages = await _messages(connection, waiting, heads, topics)
    await connection.execute(
        text("""
            UPDATE imagepipe.requests
            SET deferred_at = clock_timestamp(), deferrals = deferrals + 1 WHERE id = ANY(:ids)
        """),
        {"ids": [request_id for _, request_id in messages]},
    )
    await outbox.add(connection, messages)
    return len(messages)


async def _messages(
    connection: AsyncConnection,
    waiting: Sequence[Row[Any]],
    heads: Mapping[str, Head],
    topics: Topics,
) -> list[tuple[Any, Any]]:
    """One message each, about the limit that frees last of those that block the request.

    The instants are computed once per head, not once per request.
    """
    now = await ledger.now(connection)
    books = await ledger.read_books(connection)
    frees_at = {
        limit: await ledger.room_at(connection, limit, head.purchase, now)
        for scope, head in heads.items()
        for limit in head.limits
        if limit.scope == scope
    }
    messages = []
    for row in waiting:
        asker = Asker(*row[:ASKER_COLUMNS])
        purchase = Purchase(row.source, row.type, row.bound_microusd)
        if never := books.never_fits(purchase):
            limit, retry_at = never[0], None
        else:
            blocking = [limit for limit in frees_at if limit.scope in purchase.scopes]
            if not blocking:
                continue  # the limits have just been changed: the next look says what holds now
            limit = max(blocking, key=lambda limit: frees_at[limit] or now)
            retry_at = frees_at[limit]
        totals = books.totals.get(limit.window, (0, 0))  # it may have been replaced meanwhile
        message = answers.deferred(topics, asker, limit, totals, retry_at)
        messages.append((message, asker.id))
    return messages
