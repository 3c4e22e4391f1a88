"""Claiming: due jobs leave the queue together with their money, or stay in it.

One transaction per claim. It holds the ledger's lock, so workers claim one after the other, in
batches as large as their free slots. A claimed attempt is committed as started before the call:
whatever happens to the worker afterwards, that money stays held until somebody knows better.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import assets, circuits, completion, ledger
from pipeline.answers import Topics
from pipeline.ids import time_ordered
from pipeline.ledger import OpenBooks, Reservation, Settlement
from pipeline.ports import ImageCall
from pipeline.rules.lifecycle import ReservationState, Source
from pipeline.rules.limits import Limit, Purchase, admit
from schemas.request import ImageType

SPOOL_LIMIT = 2**30  # bytes


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job in hand, with its money reserved under the attempt's id."""

    job_id: UUID
    attempt_id: UUID
    call: ImageCall
    event_id: str  # of the request that opened the job
    traceparent: str | None

    @property
    def trace(self) -> dict[str, str]:
        """What the log says with every line about it."""
        found = {"job": str(self.job_id), "event_id": self.event_id}
        return found | ({"traceparent": self.traceparent} if self.traceparent else {})


@dataclass(frozen=True, slots=True)
class Head:
    """The best job of a closed scope: nothing behind it in that scope may pass."""

    purchase: Purchase
    limits: list[Limit]


@dataclass(slots=True)
class Claim:
    """What a claim brought: jobs to buy, pictures found after all, and who has to wait. `due`:
    whether anything was due, be it claimed or not."""

    claimed: list[Claimed] = field(default_factory=list)
    hits: int = 0
    heads: dict[str, Head] = field(default_factory=dict)  # by closed scope
    due: bool = True


async def claim(
    connection: AsyncConnection,
    *,
    slots: int,
    call_timeout: float,
    call_margin: float = 30.0,
    spool_limit: int = SPOOL_LIMIT,
    topics: Topics,
    trial: bool,
) -> Claim:
    """Claim up to `slots` due jobs, best first, as far as every limit has room.

    An attempt of which nothing is heard is given up as unknown `call_margin` seconds after the end
    of its call's time (`call_timeout` seconds).
    """
    result = Claim(due=await _anything_due(connection))
    if not result.due or await _spool_is_full(connection, spool_limit):
        return result
    opened = await ledger.open_books(connection)
    paid = await _reserved(connection, slots)
    paid = await _answer_existing(connection, paid, result, topics, trial=trial)
    paid = [candidate for candidate in paid if await _renewed(connection, opened, candidate)]
    await _start(connection, paid, call_timeout, call_margin)
    result.claimed += [candidate.claimed for candidate in paid]
    while len(result.claimed) < slots and "global" not in result.heads:
        found = await _candidates(connection, slots - len(result.claimed), result.heads)
        if not found:
            break
        queue = await _answer_existing(connection, found, result, topics, trial=trial)
        purchases = [candidate.purchase for candidate in queue]
        admission = admit(opened.books, purchases)
        admitted = [queue[index] for index in admission.admitted]
        await ledger.reserve(
            connection,
            opened.now,
            [Reservation(c.claimed.attempt_id, c.purchase, c.claimed.call.model) for c in admitted],
        )
        await _start(connection, admitted, call_timeout, call_margin)
        result.claimed += [candidate.claimed for candidate in admitted]
        for scope, (index, limits) in admission.heads.items():
            result.heads[scope] = Head(purchases[index], limits)
    return result


async def _anything_due(connection: AsyncConnection) -> bool:
    due = text("""
        SELECT EXISTS (SELECT FROM imagepipe.jobs
                       WHERE state = 'queued' AND due_at <= clock_timestamp())
    """)
    return bool(await connection.scalar(due))


async def _spool_is_full(connection: AsyncConnection, limit: int) -> bool:
    """Whether pictures pile up that the media host does not take: then nothing more is bought."""
    size = text("SELECT coalesce(sum(octet_length(data)), 0) > :limit FROM imagepipe.image_spool")
    return bool(await connection.scalar(size, {"limit": limit}))


@dataclass(frozen=True, slots=True)
class _Candidate:
    claimed: Claimed
    purchase: Purchase
    joinable: bool
    context_hash: str
    prompt_hash: str


_COLUMNS = """
    j.id, j.reserved, j.model, j.prompt, j.size, j.quality, j.style, j.output_format, j.source,
    j.type, j.bound_microusd, j.joinable, j.context_hash, j.prompt_hash,
    (SELECT r.event_id FROM imagepipe.requests r WHERE r.id = j.id) AS event_id,
    (SELECT r.traceparent FROM imagepipe.requests r WHERE r.id = j.id) AS traceparent,
    coalesce((SELECT c.failures > 0 FROM imagepipe.circuits c WHERE c.model = j.model), false)
        AS probe
"""

MAY_BE_CALLED = """
    j.state = 'queued' AND j.due_at <= clock_timestamp()
    AND NOT (j.joinable AND EXISTS (
        SELECT FROM imagepipe.jobs received
        WHERE received.state = 'generated' AND
              (received.context_hash = j.context_hash OR received.prompt_hash = j.prompt_hash)))
    AND NOT EXISTS (
        SELECT FROM imagepipe.circuits c
        WHERE c.model = j.model AND c.paused_until > clock_timestamp())
"""
"""Due, not of a model nobody may call, and not a picture that was received and is being uploaded.

The last happens to a job beside one that cannot be joined (late bytes, skipCache): it waits for
that asset. Received bytes are committed under the ledger's lock, which we hold.
"""


async def _reserved(connection: AsyncConnection, wanted: int) -> list[_Candidate]:
    """The best due jobs that have their money (`pipeline.admission`), locked."""
    rows = await connection.execute(
        text(f"""
            SELECT {_COLUMNS}
            FROM imagepipe.jobs j
            WHERE j.reserved IS NOT NULL AND {MAY_BE_CALLED}
            ORDER BY j.priority DESC, j.sequence
            LIMIT :wanted FOR UPDATE OF j SKIP LOCKED
        """),
        {"wanted": wanted},
    )
    return _candidates_of(rows)


async def _candidates(
    connection: AsyncConnection, wanted: int, closed: Iterable[str]
) -> list[_Candidate]:
    """The best due jobs that need money, locked, without those that stand behind a head or could
    never fit a limit. Each open scope is asked for its best, so the others are not even read."""
    open_scopes = [
        (source.value, type_.value)
        for source, type_ in product(Source, ImageType)
        if not {f"source:{source}", f"type:{type_}"} & set(closed)
    ]
    rows = await connection.execute(
        text(f"""
            SELECT {_COLUMNS}
            FROM unnest(CAST(:sources AS text[]), CAST(:types AS text[])) AS open (source, type)
            CROSS JOIN LATERAL (
                SELECT j.id FROM imagepipe.jobs j
                WHERE j.source = open.source AND j.type = open.type AND j.reserved IS NULL
                  AND {MAY_BE_CALLED}
                  AND NOT EXISTS (
                      SELECT FROM imagepipe.limits l
                      WHERE l.scope IN ('global', 'source:' || j.source, 'type:' || j.type)
                        AND (l.max_requests < 1 OR l.max_microusd < j.bound_microusd))
                ORDER BY j.priority DESC, j.sequence LIMIT :wanted
            ) best
            JOIN imagepipe.jobs j ON j.id = best.id AND j.state = 'queued' AND j.reserved IS NULL
            ORDER BY j.priority DESC, j.sequence
            LIMIT :wanted FOR UPDATE OF j SKIP LOCKED
        """),
        {
            "wanted": wanted,
            "sources": [source for source, _ in open_scopes],
            "types": [type_ for _, type_ in open_scopes],
        },
    )
    return _candidates_of(rows)


def _candidates_of(rows: Iterable[Row[Any]]) -> list[_Candidate]:
    """One call only to a model that is being probed."""
    probed: set[str] = set()
    candidates: list[_Candidate] = []
    for row in rows:
        if row.model in probed:
            continue
        if row.probe:
            probed.add(row.model)
        call = ImageCall(row.model, row.prompt, row.size, row.quality, row.style, row.output_format)
        candidates.append(
            _Candidate(
                Claimed(
                    row.id, row.reserved or time_ordered(), call, row.event_id, row.traceparent
                ),
                Purchase(row.source, row.type, row.bound_microusd),
                row.joinable,
                row.context_hash,
                row.prompt_hash,
            )
        )
    return candidates


async def _answer_existing(
    connection: AsyncConnection,
    candidates: list[_Candidate],
    result: Claim,
    topics: Topics,
    *,
    trial: bool,
) -> list[_Candidate]:
    """Look once more for pictures that exist meanwhile; returns the jobs that must be bought."""
    askable = [c for c in candidates if c.joinable]
    found = await assets.find(
        connection,
        [c.context_hash for c in askable],
        [c.prompt_hash for c in askable],
        trial=trial,
    )
    missing: list[_Candidate] = []
    for candidate in candidates:
        asset = found.get([candidate.context_hash], candidate.prompt_hash)
        if asset is None or not candidate.joinable:
            missing.append(candidate)
        else:
            await completion.answer_from(connection, candidate.claimed.job_id, asset, topics)
            result.hits += 1
    return missing


async def _renewed(connection: AsyncConnection, opened: OpenBooks, candidate: _Candidate) -> bool:
    """Whether a job's money, held ahead, is good for a call now; else it queues for money."""
    attempt_id = candidate.claimed.attempt_id
    if await ledger.renew(connection, opened, attempt_id):
        return True
    released = Settlement(attempt_id, ReservationState.RELEASED, 0)
    await ledger.settle(connection, [released])
    await connection.execute(
        text("UPDATE imagepipe.jobs SET reserved = NULL WHERE id = :id"),
        {"id": candidate.claimed.job_id},
    )
    return False


async def _start(
    connection: AsyncConnection,
    candidates: Sequence[_Candidate],
    call_timeout: float,
    call_margin: float,
) -> None:
    """Write each attempt down as started, with the moment it is given up; its money is held.

    From now on a job goes on whether its clients stay or leave.
    """
    if not candidates:
        return
    claimed = [candidate.claimed for candidate in candidates]
    await circuits.probing(connection, {c.call.model for c in claimed}, call_timeout)
    await connection.execute(
        text("""
            WITH new AS (
                SELECT job_id, attempt_id,
                       clock_timestamp() + make_interval(secs => :seconds) AS deadline
                FROM unnest(CAST(:jobs AS uuid[]), CAST(:attempts AS uuid[]))
                    AS new (job_id, attempt_id)
            ), started AS (
                INSERT INTO imagepipe.attempts (id, job_id, state, call_deadline)
                SELECT attempt_id, job_id, 'started', deadline FROM new
            ), waiting AS (
                UPDATE imagepipe.requests r SET deferred_at = NULL, attended_until = NULL FROM new
                WHERE r.job_id = new.job_id AND r.state = 'waiting'
                  AND (r.deferred_at IS NOT NULL OR r.attended_until IS NOT NULL)
            )
            UPDATE imagepipe.jobs j
            SET state = 'generating', reserved = NULL, lease = new.attempt_id,
                lease_until = new.deadline
            FROM new WHERE j.id = new.job_id AND j.state = 'queued'
        """),
        {
            "jobs": [c.job_id for c in claimed],
            "attempts": [c.attempt_id for c in claimed],
            "seconds": call_timeout + call_margin,
        },
    )
