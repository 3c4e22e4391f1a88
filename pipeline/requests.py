"""Queries on `requests`: who asked for a picture, and whether they have been answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.arrays import text_array
from pipeline.preparation import Prepared
from pipeline.rules.lifecycle import Source

API = "urn:imagepipe:api"
"""The source of requests over HTTP, beside those of events."""


@dataclass(frozen=True, slots=True)
class Asker:
    """A recorded request, as far as its answer needs it."""

    id: UUID
    sequence: int
    event_source: str
    event_id: str
    entity_type: str | None
    entity_id: str | None
    context_hash: str
    prompt_hash: str
    hash_version: int
    alt: str
    traceparent: str | None
    received_at: datetime
    failures: int = 0
    deferrals: int = 0


ASKER = (
    "r.id, r.sequence, r.event_source, r.event_id, r.entity_type, r.entity_id, r.context_hash,"
    " r.prompt_hash, r.hash_version, r.alt, r.traceparent, r.received_at, r.failures, r.deferrals"
)
"""The columns of an `Asker`, in order, of a table called r."""


def asker(prepared: Prepared, sequence: int) -> Asker:
    """What `ASKER` would read back of a request that has just been recorded."""
    upload = prepared.request.upload
    return Asker(
        prepared.id,
        sequence,
        prepared.event_source,
        prepared.event_id,
        upload.entity_type,
        upload.entity_id,
        prepared.context_hash,
        prepared.prompt_hash,
        prepared.hash_version,
        prepared.alt.text,
        prepared.traceparent,
        datetime.now(UTC),
    )


COLUMNS = (
    "id, event_source, event_id, source, type, size, entity_type, entity_id, context_hash,"
    " prompt_hash, hash_version, alt, alt_generated, data, traceparent"
)
"""The columns that are known when a request comes in, as `columns` gives them."""

PLACEHOLDERS = """
    CAST(:ids AS uuid[]), CAST(:event_sources AS text[]), CAST(:event_ids AS text[]),
    CAST(:sources AS text[]), CAST(:types AS text[]), CAST(:sizes AS text[]),
    CAST(:entity_types AS text[]), CAST(:entity_ids AS text[]), CAST(:context_hashes AS text[]),
    CAST(:prompt_hashes AS text[]), CAST(:hash_versions AS smallint[]), CAST(:alts AS text[]),
    CAST(:alts_generated AS boolean[]), CAST(:data AS text[]), CAST(:traceparents AS text[])
"""
"""`columns` as arguments of `unnest`, in the order of `COLUMNS`."""

COLUMNS_OF_ASKED = COLUMNS.replace("data,", "CAST(data AS jsonb),")
"""`COLUMNS` of what `unnest` gives, as the table takes them."""


def columns(batch: Sequence[Prepared]) -> dict[str, str]:
    """The values of `PLACEHOLDERS` for a batch."""
    uploads = [p.request.upload for p in batch]
    lists: dict[str, list[str | None]] = {
        "ids": [str(p.id) for p in batch],
        "event_sources": [p.event_source for p in batch],
        "event_ids": [p.event_id for p in batch],
        "sources": [p.source for p in batch],
        "types": [p.request.type for p in batch],
        "sizes": [p.request.size for p in batch],
        "entity_types": [upload.entity_type for upload in uploads],
        "entity_ids": [upload.entity_id for upload in uploads],
        "context_hashes": [p.context_hash for p in batch],
        "prompt_hashes": [p.prompt_hash for p in batch],
        "hash_versions": [str(p.hash_version) for p in batch],
        "alts": [p.alt.text for p in batch],
        "alts_generated": ["t" if p.alt.generated else "f" for p in batch],
        "data": [p.request.model_dump_json(exclude_unset=True) for p in batch],
        "traceparents": [p.traceparent for p in batch],
    }
    return {name: text_array(values) for name, values in lists.items()}


async def attach(connection: AsyncConnection, jobs: Mapping[UUID, UUID]) -> None:
    """Let waiting requests wait for their job (request -> job)."""
    if not jobs:
        return
    await connection.execute(
        text("""
            UPDATE imagepipe.requests r SET job_id = new.job_id
            FROM unnest(CAST(:ids AS uuid[]), CAST(:jobs AS uuid[])) AS new (id, job_id)
            WHERE r.id = new.id AND r.state = 'waiting'
        """),
        {"ids": list(jobs), "jobs": list(jobs.values())},
    )


async def waiting_for(connection: AsyncConnection, job_id: UUID) -> list[Asker]:
    """The requests that wait for a job, in the order they were accepted; locked."""
    rows = await connection.execute(
        text(
            f"SELECT {ASKER} FROM imagepipe.requests r"
            " WHERE r.job_id = :job AND r.state = 'waiting' ORDER BY r.sequence FOR UPDATE"
        ),
        {"job": job_id},
    )
    return [Asker(*row) for row in rows]


async def finish_ready(
    connection: AsyncConnection, asset_id: UUID, *, paid: Sequence[UUID], cached: Sequence[UUID]
) -> None:
    """Waiting requests have their picture: `paid` bought it, `cached` got it for nothing."""
    await connection.execute(
        text("""
            UPDATE imagepipe.requests
            SET state = 'ready', asset_id = :asset, cached = NOT id = ANY(CAST(:paid AS uuid[])),
                finished_at = clock_timestamp()
            WHERE id = ANY(CAST(:paid AS uuid[]) || CAST(:cached AS uuid[]))
        """),
        {"asset": asset_id, "paid": list(paid), "cached": list(cached)},
    )


async def finish_failed(connection: AsyncConnection, ids: Sequence[UUID], code: str) -> None:
    """Waiting requests will not get a picture."""
    await connection.execute(
        text("""
            UPDATE imagepipe.requests
            SET state = 'failed', error_code = :code, failures = failures + 1,
                finished_at = clock_timestamp()
            WHERE id = ANY(:ids)
        """),
        {"ids": list(ids), "code": code},
    )


async def supersede(
    connection: AsyncConnection, newer: Sequence[tuple[Asker, Prepared]]
) -> dict[UUID, list[Asker]]:
    """Find what newer events for the same entity, type and size replace: earlier ones that wait
    for a job which has not been claimed. Locks those jobs and requests; returns them by job.

    Requests over HTTP neither replace nor are replaced: each has its client. A replayed event,
    which is only now recorded but older than it looks, replaces none that came by itself.
    """
    named = [
        (asker, p)
        for asker, p in newer
        if asker.entity_type and asker.entity_id and asker.event_source != API
    ]
    if not named:
        return {}
    rows = await connection.execute(
        text(f"""
            SELECT r.job_id, {ASKER}
            FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:kinds AS text[]),
                        CAST(:sizes AS text[]), CAST(:sequences AS bigint[]),
                        CAST(:sources AS text[]))
                AS newer (entity_type, entity_id, type, size, sequence, source)
            JOIN imagepipe.requests r USING (entity_type, entity_id, type, size)
            JOIN imagepipe.jobs j ON j.id = r.job_id
            WHERE r.state = 'waiting' AND r.sequence < newer.sequence AND j.state = 'queued'
              AND r.event_source <> :api AND (newer.source <> :backfill OR r.source = :backfill)
            ORDER BY j.id, r.sequence FOR NO KEY UPDATE OF j, r
        """),
        {
            "types": [asker.entity_type for asker, _ in named],
            "ids": [asker.entity_id for asker, _ in named],
            "kinds": [p.request.type.value for _, p in named],
            "sizes": [p.request.size.value for _, p in named],
            "sequences": [asker.sequence for asker, _ in named],
            "sources": [p.source.value for _, p in named],
            "backfill": Source.BACKFILL.value,
            "api": API,
        },
    )
    found: dict[UUID, dict[UUID, Asker]] = {}
    for row in rows:
        asker = Asker(*row[1:])
        found.setdefault(row.job_id, {})[asker.id] = asker
    return {job: list(askers.values()) for job, askers in found.items()}
