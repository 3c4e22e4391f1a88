"""What is answered when all is well, and how limits are told."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from math import ceil
from typing import Any
from uuid import UUID

from starlette.responses import JSONResponse, Response

from pipeline.admission import Decision
from pipeline.api.problems import ApiProblem, failed
from pipeline.orders import Considered
from pipeline.reports import LimitReport
from pipeline.results import Result
from pipeline.rules.lifecycle import RequestState
from pipeline.rules.limits import Limit
from pipeline.rules.limits_file import span_in_words
from pipeline.status import Status, as_data
from schemas import api
from schemas.outcomes import Model
from schemas.wire import usd

PATH = "/api/ai/generate-image"


def location_of(request_id: UUID) -> str:
    return f"{PATH}/{request_id}"


def generated(result: Result) -> dict[str, Any]:
    """The specification's answer; raises `ApiProblem` for a request that has no picture."""
    if result.state is RequestState.FAILED:
        raise failed(result)
    if result.asset is None:
        raise ApiProblem(410, "picture_deleted", "The CMS has deleted this picture since.")
    asset = result.asset
    return {
        "success": True,
        "cached": result.cached,
        "public_id": asset.public_id,
        "url": asset.url,
        "width": asset.width,
        "height": asset.height,
        "format": asset.format,
        "media_asset_id": str(asset.id),
        "revised_prompt": asset.revised_prompt,
        "cost": float(usd(result.microusd)),
    }


def underway(result: Result) -> Response:
    """202: where to ask for the picture later."""
    location = location_of(result.id)
    body = api.Underway(id=result.id, state=result.progress, location=location)
    return JSONResponse(
        body.model_dump(mode="json"), 202, {"Location": location, "Retry-After": "2"}
    )


def looked_up(result: Result) -> Response:
    """A request's state, or its result: 202 while it is under way, then 200."""
    if result.state is RequestState.WAITING:
        return underway(result)
    about = {"id": str(result.id), "state": result.state.value}
    if result.state is RequestState.FAILED:
        return JSONResponse(failed(result).body | about)
    return JSONResponse(generated(result) | about)


def considered(found: Considered) -> Response:
    """What `dryRun` says."""
    prepared, asset = found.prepared, found.asset
    body = api.Consideration(
        hit=asset is not None,
        media_asset_id=asset.id if asset else None,
        url=asset.url if asset else None,
        joins=found.joins.value if found.joins else None,
        context_hash=prepared.context_hash,
        prompt_hash=prepared.prompt_hash,
        hash_version=prepared.hash_version,
        prompt=prepared.call.prompt,
        model=Model(
            name=prepared.call.model, size=prepared.call.size, quality=prepared.call.quality
        ),
        upper_bound=usd(prepared.bound_microusd),
        rate_limit=rate_limit(found.decision, found.now),
    )
    return JSONResponse(body.model_dump(mode="json", exclude={"rate_limit": _unsaid(body)}))


def status(found: Status) -> Response:
    """The specification's limits and statistics, and more."""
    data, today = as_data(found), found.days[0]
    body = api.Status(
        rate_limit=rate_limit(found.decision, found.now),
        stats=api.Stats(
            today=api.Today(
                count=today.count,
                success=today.success,
                failed=today.failed,
                cost=usd(today.microusd),
            )
        ),
        cached=today.cached,
        saved=usd(today.saved_microusd),
        limits=data["limits"],
        queue=data["queue"],
        provider=data["circuits"],
        model=data["model"],
    )
    return JSONResponse(
        body.model_dump(mode="json", exclude={"rate_limit": _unsaid(body)}),
        headers=rate_limit_headers(found.limits, found.now),
    )


def refused(decision: Decision, limits: Iterable[LimitReport], now: datetime) -> ApiProblem:
    """429: no room, nothing was queued."""
    limit = rate_limit(decision, now)
    assert limit.reason is not None
    headers = rate_limit_headers(limits, now)
    if limit.retry_after is not None:
        headers["Retry-After"] = str(limit.retry_after)
    return ApiProblem(
        429,
        "rate_limited",
        f"{limit.reason} Try again later, or send Prefer: respond-async to wait in the queue.",
        details={"limits": [one.name for one in decision.limits]},
        headers=headers,
        more={"rateLimit": limit.model_dump(mode="json")},
    )


def rate_limit(decision: Decision, now: datetime) -> api.RateLimit:
    """The specification's `rateLimit`."""
    if decision.allowed:
        return api.RateLimit(allowed=True, retry_after=0)
    limits = ", ".join(map(_in_words, decision.limits))
    if decision.retry_at is None:
        return api.RateLimit(
            allowed=False,
            reason=f"This can never fit the limit {limits}.",
            retry_after=None,
        )
    seconds = max(1, ceil((decision.retry_at - now).total_seconds()))
    return api.RateLimit(
        allowed=False,
        reason=f"The limit {limits} has no room for {_span(seconds)}.",
        retry_after=seconds,
    )


def _unsaid(body: api.Status | api.Consideration) -> set[str]:
    return {"reason"} if body.rate_limit.allowed else set()


def _in_words(limit: Limit) -> str:
    parts = []
    if limit.max_requests is not None:
        parts.append(f"{limit.max_requests} requests")
    if limit.max_microusd is not None:
        parts.append(f"{usd(limit.max_microusd):f} USD")
    return f"{limit.name} ({' and '.join(parts)} per {span_in_words(limit.span_seconds)})"


def _span(seconds: int) -> str:
    return str(timedelta(seconds=seconds))


def rate_limit_headers(reports: Iterable[LimitReport], now: datetime) -> dict[str, str]:
    """`RateLimit-Policy` and `RateLimit` (IETF httpapi draft 11) for the limits of requests:
    quota and window; what remains, and the seconds until more of it is there."""
    counted = [
        report
        for report in reports
        if report.limit.max_requests is not None and report.limit.scope in ("global", "source:api")
    ]
    if not counted:
        return {}
    policies, states = [], []
    for report in counted:
        limit = report.limit
        assert limit.max_requests is not None
        policies.append(f'"{limit.name}";q={limit.max_requests};w={limit.span_seconds}')
        left = max(0, limit.max_requests - report.used_requests)
        state = f'"{limit.name}";r={left}'
        if report.next_frees_at:
            state += f";t={max(0, ceil((report.next_frees_at - now).total_seconds()))}"
        states.append(state)
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}
