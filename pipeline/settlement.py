"""What follows a call: its bytes kept, its money settled, its job moved on.

Each function is one step in the caller's transaction, and asks the tables whether somebody else
has taken it already. Settling is by attempt, not by lease: whoever was given up for lost may still
come with bytes. The order of locks is: the job, then the ledger.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import assets, circuits, jobs, ledger, requests
from pipeline.answers import Topics
from pipeline.assets import LogEntry
from pipeline.errors import OutcomeUnknown, OutsideError, storable
from pipeline.ledger import Settlement
from pipeline.ports import GeneratedImage
from pipeline.refusals import Reason, refuse
from pipeline.rules.catalogue import Catalogue, NoBound, UnknownModel
from pipeline.rules.lifecycle import JobState, ReservationState, sources_of
from pipeline.rules.pricing import actual_cost
from pipeline.rules.retries import Patience, Verdict, judge
from schemas.request import ImageRequest

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Charge:
    """What a call costs, as far as we know: micro-dollars, 0 for nothing."""

    model: str
    type: str
    microusd: int


@dataclass(frozen=True, slots=True)
class Kept:
    """`first`: these bytes are the picture of the job, which was opened for `request`. `charge` is
    None when it was recorded before."""

    first: bool
    charge: Charge | None
    request: ImageRequest


@dataclass(frozen=True, slots=True)
class Received:
    """A picture, and the attempt that has bought it."""

    job_id: UUID
    attempt_id: UUID
    image: GeneratedImage


@dataclass(frozen=True, slots=True)
class _Bought:
    """What was received, with its job and its price in micro-dollars."""

    received: Received
    job: Row[Any]
    charged: int
    basis: str
    first: bool


async def keep_pictures(
    connection: AsyncConnection,
    received: Sequence[Received],
    catalogue: Catalogue,
    *,
    lease_seconds: float,
) -> list[Kept]:
    """Put received bytes into the spool and settle their cost; an answer for each, in order.

    The first bytes win, whoever brings them and however late: a job given up as failed is taken
    up again. Later bytes are settled and recorded as a duplicate purchase.
    """
    loaded = await jobs.load_all(connection, [one.job_id for one in received])
    # An attempt that is not open any more: the answer to an earlier commit of this step got lost.
    open_ = await _open_attempts(connection, received)
    bought: dict[UUID, _Bought] = {}
    served: set[UUID] = set()
    for one in received:
        if one.attempt_id in open_:
            job = loaded[one.job_id]
            cost = _cost(job, one.image, catalogue)
            charged = job.bound_microusd if cost is None else cost
            first = job.state in sources_of(JobState.GENERATED) and job.id not in served
            served.add(job.id)
            basis = "estimated" if cost is None else "actual"
            bought[one.attempt_id] = _Bought(one, job, charged, basis, first)
    if bought:
        await _record(connection, list(bought.values()), lease_seconds)
    return [
        _kept(bought.get(one.attempt_id), ImageRequest.from_wire(loaded[one.job_id].data))
        for one in received
    ]


def _kept(bought: _Bought | None, request: ImageRequest) -> Kept:
    if bought is None:
        return Kept(False, None, request)
    return Kept(bought.first, Charge(bought.job.model, bought.job.type, bought.charged), request)


async def _open_attempts(connection: AsyncConnection, received: Sequence[Received]) -> set[UUID]:
    """The attempts that may still end as bought; their jobs are locked."""
    rows = await connection.scalars(
        text(
            "SELECT id FROM imagepipe.attempts"
            " WHERE id = ANY(:ids) AND state IN ('started', 'unknown')"
        ),
        {"ids": [one.attempt_id for one in received]},
    )
    return set(rows)


async def _record(
    connection: AsyncConnection, bought: Sequence[_Bought], lease_seconds: float
) -> None:
    await _end_attempts(connection, bought)
    await _spool(connection, [one for one in bought if one.first], lease_seconds)
    for one in bought:
        if not one.first:
            ids = {"job": str(one.job.id), "attempt": str(one.received.attempt_id)}
            log.warning("duplicate purchase", **ids, cost=one.charged)
    await ledger.settle(
        connection,
        [
            Settlement(one.received.attempt_id, ReservationState.SETTLED, one.charged)
            for one in bought
        ],
    )
    await assets.write_log(
        connection,
        [_log_entry(one.job, one.received.attempt_id, one.charged, None) for one in bought],
    )
    for model in {one.job.model for one in bought}:
        await circuits.closed_again(connection, model)
    for one in bought:
        bound = one.job.bound_microusd
        if one.charged > bound:
            message = f"a picture cost {one.charged} micro-dollars where {bound} was the bound"
            log.error("price above its bound, model stopped", model=one.job.model, message=message)
            await circuits.stop(connection, one.job.model, message)


def _cost(job: Row[Any], image: GeneratedImage, catalogue: Catalogue) -> int | None:
    """The micro-dollars of a purchase; None when nobody can know them, which is no reason to lose
    the picture (a job that waited may name a model that this release no longer lists)."""
    try:
        return actual_cost(catalogue.model(job.model), job.size, job.quality, image.usage)
    except (UnknownModel, NoBound):
        return None


async def _end_attempts(connection: AsyncConnection, bought: Sequence[_Bought]) -> None:
    await connection.execute(
        text("""
            UPDATE imagepipe.attempts
            SET state = 'bought', finished_at = clock_timestamp(), duplicate = :duplicate,
                error_code = NULL, error_message = NULL, provider_request_id = :request_id,
                usage = :usage, cost_microusd = :cost, cost_basis = :basis,
                revised_prompt = :revised
            WHERE id = :id
        """).bindparams(bindparam("usage", type_=JSONB)),
        [
            {
                "id": one.received.attempt_id,
                "duplicate": not one.first,
                "request_id": image.request_id,
                "usage": asdict(image.usage) if image.usage else None,
                "cost": one.charged,
                "basis": one.basis,
                "revised": image.revised_prompt and storable(image.revised_prompt),
            }
            for one in bought
            for image in [one.received.image]
        ],
    )


async def _spool(
    connection: AsyncConnection, bought: Sequence[_Bought], lease_seconds: float
) -> None:
    if not bought:
        return
    insert = text("""
        INSERT INTO imagepipe.image_spool
            (job_id, attempt_id, data, format, width, height, sha256)
        VALUES (:job, :attempt, :data, :format, :width, :height, :sha256)
    """)
    for one in bought:  # not all at once: a connection keeps a buffer as large as it ever needed
        facts = one.received.image.facts
        values = {
            "job": one.received.job_id,
            "attempt": one.received.attempt_id,
            "data": one.received.image.data,
            "format": facts.format,
            "width": facts.width,
            "height": facts.height,
            "sha256": facts.sha256,
        }
        await connection.execute(insert, values)
    await connection.execute(
        text("""
            UPDATE imagepipe.jobs
            SET state = 'generated', joinable = joinable AND state <> 'failed', lease = :attempt,
                lease_until = clock_timestamp() + make_interval(secs => :lease),
                due_at = clock_timestamp(), error_class = NULL, error_code = NULL,
                error_message = NULL, finished_at = NULL
            WHERE id = :job
        """),
        [
            {
                "job": one.received.job_id,
                "attempt": one.received.attempt_id,
                "lease": lease_seconds,
            }
            for one in bought
        ],
    )


async def record_failure(
    connection: AsyncConnection,
    job_id: UUID,
    attempt_id: UUID,
    error: OutsideError,
    *,
    patience: Patience,
    topics: Topics,
) -> Charge | None:
    """Settle a failed attempt and decide about its job: another try, or the end.

    Returns None when the attempt had ended before.
    """
    job = await jobs.load(connection, job_id)
    verdict = judge(
        error,
        tries=job.tries,
        unknowns=job.unknowns,
        failures=await circuits.failures(connection, job.model),
        patience=patience,
        jitter=random.random(),  # noqa: S311
    )
    ended = await connection.execute(
        text("""
            UPDATE imagepipe.attempts
            SET state = :state, finished_at = clock_timestamp(), error_code = :code,
                error_message = :message, provider_request_id = :request_id
            WHERE id = :id AND (state = 'started' OR state = 'unknown' AND :state = 'refused')
        """),
        {
            "id": attempt_id,
            "state": "unknown" if verdict.keep_money else "refused",
            "code": error.code,
            "message": error.message,
            "request_id": error.request_id,
        },
    )
    if not ended.rowcount:
        return None
    state = ReservationState.UNKNOWN if verdict.keep_money else ReservationState.RELEASED
    held = job.bound_microusd if verdict.keep_money else 0
    await ledger.settle(connection, [Settlement(attempt_id, state, held)])
    await assets.write_log(connection, [_log_entry(job, attempt_id, held, str(error))])
    await circuits.pause(connection, job.model, error, verdict)
    if verdict.opens_circuit:
        log.error(
            "image model closed, calls paused",
            model=job.model,
            error=str(error),
            seconds=verdict.pause_model,
        )
    if job.state == JobState.GENERATING and job.lease == attempt_id:
        await _move_on(connection, job, error, verdict, topics)
    return Charge(job.model, job.type, held)


async def _move_on(
    connection: AsyncConnection,
    job: Row[Any],
    error: OutsideError,
    verdict: Verdict,
    topics: Topics,
) -> None:
    target = JobState.FAILED if verdict.delay is None else JobState.QUEUED
    await connection.execute(
        text("""
            UPDATE imagepipe.jobs
            SET state = :state, tries = :tries, unknowns = :unknowns, lease = NULL,
                lease_until = NULL, error_class = :class, error_code = :code,
                error_message = :message,
                due_at = clock_timestamp() + make_interval(secs => :delay),
                finished_at = CASE WHEN :state = 'failed' THEN clock_timestamp() END
            WHERE id = :id
        """),
        {
            "id": job.id,
            "state": target.value,
            "tries": verdict.tries,
            "unknowns": verdict.unknowns,
            "class": verdict.error_class,
            "code": error.code,
            "message": error.message,
            "delay": verdict.delay or 0.0,
        },
    )
    if verdict.error_class is not None:
        reason = Reason(verdict.error_class, error.code, error.message)
        waiting = await requests.waiting_for(connection, job.id)
        await refuse(connection, job.id, waiting, reason, topics)


async def give_up_expired(
    connection: AsyncConnection, *, patience: Patience, topics: Topics
) -> list[Charge]:
    """Attempts whose deadline has passed without a word: their outcome is unknown."""
    rows = await connection.execute(
        text("""
            SELECT id, lease FROM imagepipe.jobs
            WHERE state = 'generating' AND lease_until < clock_timestamp()
            ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED
        """)
    )
    expired = rows.all()
    lost = OutcomeUnknown("worker_lost", "the worker that made the call has not been heard of")
    charges = [
        await record_failure(connection, job.id, job.lease, lost, patience=patience, topics=topics)
        for job in expired
    ]
    return [charge for charge in charges if charge]


def _log_entry(job: Row[Any], attempt_id: UUID, cost: int, error: str | None) -> LogEntry:
    request = ImageRequest.from_wire(job.data)
    return LogEntry(
        attempt_id,
        request.type.value,
        request.size.value,
        request.options.quality.value,
        cost,
        error,
        job.prompt_hash,
        job.context_hash,
    )
