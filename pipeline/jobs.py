"""Queries on `jobs`: one row per picture that had to be bought, whoever asked for it."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.arrays import text_array
from pipeline.preparation import Prepared
from pipeline.requests import Asker
from pipeline.rules.lifecycle import LIVE

LIVE_STATES = "(" + ", ".join(f"'{state}'" for state in sorted(LIVE)) + ")"


async def open_missing(
    connection: AsyncConnection, waiting: Sequence[Prepared], askers: Mapping[UUID, Asker]
) -> None:
    """Open a job for each picture nobody is making yet; it carries its opener's request id.

    Two partial unique indexes decide who is first. Rows go in hash order, so that two batches
    wait for each other rather than dead-lock; where they do all the same, one is run again.
    """
    openers = {p.id if p.request.skip_cache else p.context_hash: p for p in reversed(waiting)}
    rows = sorted(openers.values(), key=lambda p: (p.context_hash, p.id))
    await connection.execute(
        text("""
            INSERT INTO imagepipe.jobs
                (id, sequence, state, priority, source, type, joinable, context_hash, prompt_hash,
                 hash_version, model, prompt, size, quality, style, output_format, bound_microusd)
            SELECT id, sequence, 'queued', priority, source, type, joinable, context_hash,
                   prompt_hash, hash_version, model, prompt, size, quality, style, output_format,
                   bound
            FROM unnest(
                CAST(:ids AS uuid[]), CAST(:sequences AS bigint[]), CAST(:priorities AS smallint[]),
                CAST(:sources AS text[]), CAST(:types AS text[]), CAST(:joinable AS boolean[]),
                CAST(:context_hashes AS text[]), CAST(:prompt_hashes AS text[]),
                CAST(:hash_versions AS smallint[]), CAST(:models AS text[]),
                CAST(:prompts AS text[]), CAST(:sizes AS text[]), CAST(:qualities AS text[]),
                CAST(:styles AS text[]), CAST(:formats AS text[]), CAST(:bounds AS bigint[])
            ) WITH ORDINALITY AS new (
                id, sequence, priority, source, type, joinable, context_hash, prompt_hash,
                hash_version, model, prompt, size, quality, style, output_format, bound, place)
            ORDER BY place
            ON CONFLICT DO NOTHING
        """),
        {
            "ids": [p.id for p in rows],
            "sequences": [askers[p.id].sequence for p in rows],
            "priorities": [p.source.priority for p in rows],
            "sources": [p.source.value for p in rows],
            "types": [p.request.type.value for p in rows],
            "joinable": [not p.request.skip_cache for p in rows],
            "context_hashes": [p.context_hash for p in rows],
            "prompt_hashes": [p.prompt_hash for p in rows],
            "hash_versions": [p.hash_version for p in rows],
            "models": [p.call.model for p in rows],
            "prompts": [p.call.prompt for p in rows],
            "sizes": [p.call.size for p in rows],
            "qualities": [p.call.quality for p in rows],
            "styles": [p.call.style for p in rows],
            "formats": [p.call.output_format for p in rows],
            "bounds": [p.bound_microusd for p in rows],
        },
    )


async def join(connection: AsyncConnection, waiting: Sequence[Prepared]) -> dict[UUID, UUID]:
    """Find each request's live job (request -> job) and lock it, in id order.

    The lock keeps a job from being completed before the request is attached to it; one that was
    completed while we waited for the lock is no longer live, and left out. A request raises its
    job to its own source and priority.
    """
    rows = await connection.execute(
        text(f"""
            SELECT id, context_hash, prompt_hash, joinable, priority FROM imagepipe.jobs
            WHERE state IN {LIVE_STATES} AND (
                joinable AND context_hash = ANY(CAST(:context_hashes AS text[]))
                OR joinable AND prompt_hash = ANY(CAST(:prompt_hashes AS text[]))
                OR id = ANY(CAST(:ids AS uuid[])))
            ORDER BY id FOR NO KEY UPDATE
        """),
        {
            "context_hashes": [p.context_hash for p in waiting],
            "prompt_hashes": [p.prompt_hash for p in waiting],
            "ids": [p.id for p in waiting if p.request.skip_cache],
        },
    )
    live = rows.all()
    own = {job.id: job for job in live}
    by_context = {job.context_hash: job for job in live if job.joinable}
    by_prompt = {job.prompt_hash: job for job in live if job.joinable}
    joined: dict[UUID, UUID] = {}
    raised: dict[UUID, Prepared] = {}
    for request in waiting:
        if request.request.skip_cache:
            job = own.get(request.id)
        else:
            job = by_context.get(request.context_hash) or by_prompt.get(request.prompt_hash)
        if job is not None:
            joined[request.id] = job.id
            if request.source.priority > job.priority:
                raised[job.id] = request
    await _raise(connection, raised)
    return joined


async def _raise(connection: AsyncConnection, raised: Mapping[UUID, Prepared]) -> None:
    if not raised:
        return
    await connection.execute(
        text("""
            UPDATE imagepipe.jobs j SET source = new.source, priority = new.priority
            FROM unnest(CAST(:ids AS uuid[]), CAST(:sources AS text[]),
                        CAST(:priorities AS smallint[])) AS new (id, source, priority)
            WHERE j.id = new.id AND j.priority < new.priority
        """),
        {
            "ids": list(raised),
            "sources": [p.source.value for p in raised.values()],
            "priorities": [p.source.priority for p in raised.values()],
        },
    )


async def load(connection: AsyncConnection, job_id: UUID) -> Row[Any]:
    """The job, locked, with its opener's request."""
    return (await load_all(connection, [job_id]))[job_id]


async def load_all(connection: AsyncConnection, job_ids: Sequence[UUID]) -> dict[UUID, Row[Any]]:
    """The jobs, by id, locked in the order of their ids, with their openers' requests."""
    found = await connection.execute(
        text("""
            SELECT j.*, r.data FROM imagepipe.jobs j JOIN imagepipe.requests r ON r.id = j.id
            WHERE j.id = ANY(CAST(:ids AS uuid[])) ORDER BY j.id FOR UPDATE OF j
        """),
        {"ids": text_array(map(str, job_ids))},
    )
    return {job.id: job for job in found}
