"""What follows a call: its bytes kept, its money settled, its job moved on.

Each function is one step in the caller's transaction, and asks the tables whether somebody else
has taken it already. Settling is by attempt, not by lease: whoever was given up for lost may still
come with bytes. The order of locks is: the job, then the ledger.
"""

import random
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
    """`first`: these bytes are the job's picture. `charge` is None when it was recorded before."""

    first: bool
    charge: Charge | None


async def keep_picture(
    connection: AsyncConnection,
    job_id: UUID,
    attempt_id: UUID,
    image: GeneratedImage,
    catalogue: Catalogue,
    *,
    lease_seconds: float,
) -> Kept:
    """Put received bytes into the spool and settle their cost.

    The first bytes win, whoever brings them and however late: a job given up as failed is taken
    up again. Later bytes are settled and recorded as a duplicate purchase.
    """
    job = await jobs.load(connection, job_id)
    first = job.state in sources_of(JobState.GENERATED)
    cost = _cost(job, image, catalogue)
    charged = job.bound_microusd if cost is None else cost
    bought = await connection.execute(
        text("""
            UPDATE imagepipe.attempts
            SET state = 'bought', finished_at = clock_timestamp(), duplicate = :duplicate,
                error_code = NULL, error_message = NULL, provider_request_id = :request_id,
                usage = :usage, cost_microusd = :cost, cost_basis = :basis,
                revised_prompt = :revised
            WHERE id = :id AND state IN ('started', 'unknown')
        """).bindparams(bindparam("usage", type_=JSONB)),
        {
            "id": attempt_id,
            "duplicate": not first,
            "request_id": image.request_id,
            "usage": asdict(image.usage) if image.usage else None,
            "cost": charged,
            "basis": "estimated" if cost is None else "actual",
            "revised": image.revised_prompt and storable(image.revised_prompt),
        },
    )
    if not bought.rowcount:
        return Kept(False, None)  # the answer to an earlier commit of this very step got lost
    if first:
        await _spool(connection, job_id, attempt_id, image, lease_seconds)
    else:
        log.warning("duplicate purchase", job=str(job_id), attempt=str(attempt_id), cost=charged)
    await ledger.settle(connection, [Settlement(attempt_id, ReservationState.SETTLED, charged)])
    await assets.write_log(connection, _log_entry(job, attempt_id, charged, None))
    await circuits.closed_again(connection, job.model)
    if charged > job.bound_microusd:
        message = f"a picture cost {charged} micro-dollars where {job.bound_microusd} was the bound"
        log.error("price above its bound, model stopped", model=job.model, message=message)
        await circuits.stop(connection, job.model, message)
    return Kept(first, Charge(job.model, job.type, charged))


def _cost(job: Row[Any], image: GeneratedImage, catalogue: Catalogue) -> int | None:
    """The micro-dollars of a purchase; None when nobody can know them, which is no reason to lose
    the picture (a job that waited may name a model that this release no longer lists)."""
    try:
        return actual_cost(catalogue.model(job.model), job.size, job.quality, image.usage)
    except (UnknownModel, NoBound):
        return None


async def _spool(
    connection: AsyncConnection,
    job_id: UUID,
    attempt_id: UUID,
    image: GeneratedImage,
    lease_seconds: float,
) -> None:
    await connection.execute(
        text("""
            INSERT INTO imagepipe.image_spool
                (job_id, attempt_id, data, format, width, height, sha256)
            VALUES (:job, :attempt, :data, :format, :width, :height, :sha256)
        """),
        {
            "job": job_id,
            "attempt": attempt_id,
            "data": image.data,
            "format": image.facts.format,
            "width": image.facts.width,
            "height": image.facts.height,
            "sha256": image.facts.sha256,
        },
    )
    await connection.execute(
        text("""
            UPDATE imagepipe.jobs
            SET state = 'generated', joinable = joinable AND state <> 'failed', lease = :attempt,
                lease_until = clock_timestamp() + make_interval(secs => :lease),
                due_at = clock_timestamp(), error_class = NULL, error_code = NULL,
                error_message = NULL, finished_at = NULL
            WHERE id = :job
        """),
        {"job": job_id, "attempt": attempt_id, "lease": lease_seconds},
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
    await assets.write_log(connection, _log_entry(job, attempt_id, held, str(error)))
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
