"""What an operator does to single jobs: look at them, try them again, cancel them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import requests
from pipeline.answers import Topics
from pipeline.refusals import CANCELLED, refuse
from pipeline.rules.lifecycle import JobState


class NotPossible(Exception):
    """The job is not there, or not in a state that allows it; the message says which."""


@dataclass(frozen=True, slots=True)
class Story:
    """A job with its attempts (money included) and the requests that wait or waited for it."""

    job: Row[Any]
    attempts: Sequence[Row[Any]]
    requests: Sequence[Row[Any]]


async def find(
    connection: AsyncConnection, states: Sequence[JobState], limit: int
) -> Sequence[Row[Any]]:
    """Jobs in any of `states`, the newest first, with their opener's entity."""
    rows = await connection.execute(
        text("""
            SELECT j.id, j.state, j.source, j.type, j.model, j.tries, j.unknowns, j.upload_tries,
                   j.bound_microusd, j.error_class, j.error_code, j.error_message, j.due_at,
                   j.created_at, r.entity_type, r.entity_id
            FROM imagepipe.jobs j JOIN imagepipe.requests r ON r.id = j.id
            WHERE j.state = ANY(:states) ORDER BY j.sequence DESC LIMIT :limit
        """),
        {"states": [state.value for state in states], "limit": limit},
    )
    return rows.all()


async def story(connection: AsyncConnection, job_id: UUID) -> Story:
    """All there is about one job; raises `NotPossible` when there is none."""
    job = (
        await connection.execute(
            text("SELECT * FROM imagepipe.jobs WHERE id = :id"), {"id": job_id}
        )
    ).one_or_none()
    if job is None:
        raise NotPossible(f"there is no job {job_id}")
    attempts = await connection.execute(
        text("""
            SELECT a.*, r.state AS money, r.microusd
            FROM imagepipe.attempts a LEFT JOIN imagepipe.reservations r ON r.id = a.id
            WHERE a.job_id = :id ORDER BY a.started_at
        """),
        {"id": job_id},
    )
    askers = await connection.execute(
        text("""
            SELECT id, sequence, event_source, event_id, source, state, entity_type, entity_id,
                   cached, error_code, deferrals, received_at, finished_at
            FROM imagepipe.requests WHERE job_id = :id ORDER BY sequence
        """),
        {"id": job_id},
    )
    return Story(job, attempts.all(), askers.all())


async def retry(connection: AsyncConnection, job_id: UUID) -> JobState:
    """Try a job again at once; returns the state it is in now. Raises `NotPossible`.

    A waiting one forgets its back-off, a picture in the spool is uploaded again, and a failed one
    goes back to the queue with all its tries, its requests waiting again: whoever asked has been
    told `image-failed`, and is told the new outcome too. Superseded requests stay as they are.
    """
    state = await _locked_state(connection, job_id)
    if state is JobState.FAILED:
        await _reopen(connection, job_id)
        return JobState.QUEUED
    if state not in (JobState.QUEUED, JobState.GENERATED):
        raise NotPossible(f"job {job_id} is {state}: there is nothing to try again")
    await connection.execute(
        text("UPDATE imagepipe.jobs SET due_at = clock_timestamp() WHERE id = :id"), {"id": job_id}
    )
    return state


async def _reopen(connection: AsyncConnection, job_id: UUID) -> None:
    waiting = await connection.execute(
        text("""
            UPDATE imagepipe.requests
            SET state = 'waiting', error_code = NULL, finished_at = NULL, attended_until = NULL
            WHERE job_id = :id AND state = 'failed' AND error_code <> 'superseded'
        """),
        {"id": job_id},
    )
    if not waiting.rowcount:
        raise NotPossible(f"nobody waits for job {job_id} any more: newer events superseded it")
    try:
        await connection.execute(
            text("""
                UPDATE imagepipe.jobs
                SET state = 'queued', tries = 0, unknowns = 0, due_at = clock_timestamp(),
                    error_class = NULL, error_code = NULL, error_message = NULL, finished_at = NULL
                WHERE id = :id AND state = 'failed'
            """),
            {"id": job_id},
        )
    except IntegrityError:
        raise NotPossible(f"another job is making the picture of job {job_id} already") from None


async def cancel(connection: AsyncConnection, job_id: UUID, topics: Topics) -> None:
    """End a job that has not been claimed; everybody who waits is told. Raises `NotPossible`."""
    state = await _locked_state(connection, job_id)
    if state is not JobState.QUEUED:
        raise NotPossible(f"job {job_id} is {state}: only a queued one can be cancelled")
    await connection.execute(
        text("""
            UPDATE imagepipe.jobs
            SET state = 'failed', error_class = :class, error_code = :code,
                error_message = :message, finished_at = clock_timestamp()
            WHERE id = :id
        """),
        {
            "id": job_id,
            "class": CANCELLED.error_class,
            "code": CANCELLED.code,
            "message": CANCELLED.message,
        },
    )
    waiting = await requests.waiting_for(connection, job_id)
    await refuse(connection, job_id, waiting, CANCELLED, topics)


async def _locked_state(connection: AsyncConnection, job_id: UUID) -> JobState:
    state = await connection.scalar(
        text("SELECT state FROM imagepipe.jobs WHERE id = :id FOR UPDATE"), {"id": job_id}
    )
    if state is None:
        raise NotPossible(f"there is no job {job_id}")
    return JobState(state)
