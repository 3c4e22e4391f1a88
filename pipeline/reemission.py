"""Outcomes published once more on purpose, each under an id of its own that names the replay.

They are rebuilt from what the tables say: a ready one from its request and its asset, a failed one
from its job's error. Who paid is as it was; `costIncurred` of a failure is said to the request that
opened the job.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from uuid import UUID

import structlog
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import answers, outbox, results
from pipeline.answers import FREE, Price, Topics
from pipeline.messages import REPLAY_HEADER, Message, pack_headers, reemitted
from pipeline.requests import ASKER, Asker
from pipeline.results import Result
from pipeline.rules.lifecycle import RequestState

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reemitted:
    """How many outcomes were published again; `gone`: there is no picture any more to tell of."""

    sent: int
    gone: int


@dataclass(frozen=True, slots=True)
class _Spent:
    """A finished request's end, and what its job's attempts had cost by then (micro-dollars)."""

    finished_at: datetime
    estimated: bool
    attempts: int
    microusd: int


async def reemit(
    connection: AsyncConnection,
    ids: Collection[UUID],
    *,
    replay: str,
    since: datetime,
    topics: Topics,
) -> Reemitted:
    """Publish the outcomes of those of the requests that have one, once for this replay.

    `since`: when the replay began. Requests received later have just been answered as new, and
    one that was told of again since then (the topic holds its event twice) is left alone.
    """
    finished = await _finished(connection, ids, replay, since)
    found = await results.read(connection, list(finished))
    messages: list[tuple[Message, UUID | None]] = []
    gone = 0
    for id_, (asker, spent) in finished.items():
        if found[id_].state is RequestState.WAITING:
            continue  # an operator has just had it tried again
        message = _outcome(topics, asker, found[id_], spent)
        if message is None:
            gone += 1
        else:
            messages.append((reemitted(message, replay), id_))
    await outbox.add(connection, messages)
    return Reemitted(len(messages), gone)


async def _finished(
    connection: AsyncConnection, ids: Collection[UUID], replay: str, since: datetime
) -> dict[UUID, tuple[Asker, _Spent]]:
    """Those that are ready or failed, in the order in which they were accepted."""
    rows = await connection.execute(
        text(f"""
            SELECT r.finished_at, spent.estimated, spent.attempts,
                   CASE WHEN r.id = r.job_id THEN spent.microusd ELSE 0 END AS microusd, {ASKER}
            FROM imagepipe.requests r
            CROSS JOIN LATERAL (
                SELECT count(*) AS attempts, CAST(coalesce(sum(CASE t.state
                           WHEN 'bought' THEN t.cost_microusd
                           WHEN 'unknown' THEN j.bound_microusd ELSE 0 END), 0) AS bigint)
                           AS microusd,
                       coalesce(bool_or(t.state = 'bought' AND NOT t.duplicate
                                        AND t.cost_basis = 'estimated'), false) AS estimated
                FROM imagepipe.attempts t JOIN imagepipe.jobs j ON j.id = t.job_id
                WHERE t.job_id = r.job_id AND t.started_at <= r.finished_at
            ) spent
            WHERE r.id = ANY(:ids) AND r.state IN ('ready', 'failed') AND r.received_at < :since
              AND NOT EXISTS (
                  SELECT FROM imagepipe.outbox o
                  WHERE o.request_id = r.id AND o.created_at >= :since
                    AND position(:mark IN o.headers) > 0)
            ORDER BY r.sequence
        """),
        {"ids": list(ids), "since": since, "mark": _packed_mark(replay)},
    )
    askers = [(Asker(*row[4:]), _Spent(*row[:4])) for row in rows]
    return {asker.id: (asker, spent) for asker, spent in askers}


def _packed_mark(replay: str) -> str:
    """The replay's header as it stands in a packed row of the outbox."""
    [pair] = json.loads(pack_headers(((REPLAY_HEADER, replay.encode()),)))
    return json.dumps(pair)


def _outcome(topics: Topics, asker: Asker, result: Result, spent: _Spent) -> Message | None:
    """What was said of the request, as it would be said now; None where the picture is gone."""
    if reason := result.reason:
        return answers.failed(
            topics,
            replace(asker, failures=asker.failures - 1),  # as before it was counted
            error_class=reason.error_class,
            code=reason.code,
            message=reason.message,
            attempts=spent.attempts,
            microusd=spent.microusd,
            occurred_at=spent.finished_at,
        )
    if result.asset is None:
        return None
    basis: Literal["estimated", "actual"] = "estimated" if spent.estimated else "actual"
    price = FREE if result.cached else Price(result.microusd, basis)
    try:
        return answers.ready(topics, asker, result.asset, price, occurred_at=spent.finished_at)
    except ValidationError as error:
        log.warning("the asset says too little now", request=str(asker.id), error=str(error))
        return None
