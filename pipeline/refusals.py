"""Telling requests that there will be no picture for them, and what the tries cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import answers, notices, outbox, requests
from pipeline.answers import Topics
from pipeline.preparation import Prepared
from pipeline.requests import Asker
from pipeline.rules.retries import ErrorClass


@dataclass(frozen=True, slots=True)
class Reason:
    """Why there will be no picture, as `image-failed` says it."""

    error_class: ErrorClass
    code: str
    message: str


SUPERSEDED = Reason(
    "permanent", "superseded", "a newer event asks for another picture of the same entity"
)
CANCELLED = Reason("permanent", "cancelled", "an operator has cancelled the job")
ABANDONED = Reason(
    "permanent", "abandoned", "the client left before the picture was begun; nothing was bought"
)


async def refuse(
    connection: AsyncConnection,
    job_id: UUID,
    askers: Sequence[Asker],
    reason: Reason,
    topics: Topics,
) -> None:
    """Answer requests that wait for a job with `image-failed`; the first one bears the cost."""
    spent = (
        await connection.execute(
            text("""
                SELECT count(*) AS attempts, coalesce(sum(r.microusd), 0) AS microusd
                FROM imagepipe.attempts a JOIN imagepipe.reservations r ON r.id = a.id
                WHERE a.job_id = :job
            """),
            {"job": job_id},
        )
    ).one()
    await requests.finish_failed(connection, [asker.id for asker in askers], reason.code)
    messages = [
        answers.failed(
            topics,
            asker,
            error_class=reason.error_class,
            code=reason.code,
            message=reason.message,
            attempts=spent.attempts,
            microusd=int(spent.microusd) if place == 0 else 0,
        )
        for place, asker in enumerate(askers)
    ]
    await outbox.add(
        connection, [(message, a.id) for message, a in zip(messages, askers, strict=True)]
    )
    await notices.tell_finished(connection, askers)


async def supersede(
    connection: AsyncConnection, newer: Sequence[tuple[Asker, Prepared]], topics: Topics
) -> None:
    """End earlier requests that newer ones replace and nobody has paid for yet, and their jobs."""
    replaced = await requests.supersede(connection, newer)
    for job_id, askers in replaced.items():
        await refuse(connection, job_id, askers, SUPERSEDED, topics)
    await end_deserted(connection, list(replaced), SUPERSEDED)


async def end_deserted(
    connection: AsyncConnection, job_ids: Sequence[UUID], reason: Reason
) -> None:
    """End those of the queued jobs for which nobody waits any more."""
    if not job_ids:
        return
    await connection.execute(
        text("""
            UPDATE imagepipe.jobs j
            SET state = 'failed', error_class = :class, error_code = :code,
                error_message = :message, finished_at = clock_timestamp()
            WHERE j.id = ANY(:ids) AND j.state = 'queued' AND NOT EXISTS (
                SELECT FROM imagepipe.requests r
                WHERE r.job_id = j.id AND r.state = 'waiting')
        """),
        {
            "ids": list(job_ids),
            "class": reason.error_class,
            "code": reason.code,
            "message": reason.message,
        },
    )
