"""What became of a request: still under way, ready with its picture, or failed with a reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.assets import ASSET, StoredAsset
from pipeline.refusals import ABANDONED, CANCELLED, SUPERSEDED, Reason
from pipeline.rules.lifecycle import JobState, RequestState

_OWN_REASONS = {reason.code: reason for reason in (SUPERSEDED, CANCELLED, ABANDONED)}

Progress = Literal["queued", "deferred", "generating", "uploading"]


@dataclass(frozen=True, slots=True)
class Result:
    """A request as it stands.

    Ready: `asset` (None when the CMS has deleted it meanwhile), `cached` and `microusd`, what this
    request paid. Failed: `reason`. Under way: `progress`.
    """

    id: UUID
    state: RequestState
    progress: Progress
    cached: bool
    asset: StoredAsset | None
    microusd: int
    reason: Reason | None


async def read(connection: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, Result]:
    """The requests that there are, by id."""
    rows = await connection.execute(
        text(f"""
            SELECT r.id, r.state, r.cached, r.error_code, r.deferred_at,
                   j.state AS job_state, j.error_class, j.error_message,
                   (SELECT t.cost_microusd FROM imagepipe.attempts t
                    WHERE t.job_id = r.job_id AND t.state = 'bought' AND NOT t.duplicate
                      AND NOT r.cached) AS microusd,
                   {ASSET}
            FROM imagepipe.requests r
            LEFT JOIN imagepipe.jobs j ON j.id = r.job_id
            LEFT JOIN media_assets a ON a.id = r.asset_id
            WHERE r.id = ANY(:ids)
        """),
        {"ids": list(ids)},
    )
    return {row[0]: _result(row) for row in rows}


def ready(id_: UUID, asset: StoredAsset) -> Result:
    """The result of a request that has just been answered from the cache."""
    return Result(id_, RequestState.READY, "uploading", True, asset, 0, None)


def _result(row: Any) -> Result:
    id_, state, cached, error_code, deferred_at, job_state, error_class, error, cost, *asset = row
    reason = None
    if state == RequestState.FAILED:
        given = Reason(error_class or "permanent", error_code, error or "there is no picture")
        reason = _OWN_REASONS.get(error_code, given)
    return Result(
        id_,
        RequestState(state),
        _progress(job_state, deferred_at is not None),
        bool(cached),
        StoredAsset(*asset) if asset[0] is not None else None,
        cost or 0,
        reason,
    )


def _progress(job_state: str | None, deferred: bool) -> Progress:
    if job_state == JobState.GENERATING:
        return "generating"
    if job_state == JobState.GENERATED:
        return "uploading"
    return "deferred" if deferred else "queued"
