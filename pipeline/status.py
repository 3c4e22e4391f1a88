"""The whole state at one moment: windows, queue, provider, days. For `status` and for the API."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import admission, ledger, reports
from pipeline.admission import Decision, Place
from pipeline.reports import CircuitReport, DayReport, LimitReport, QueueReport
from pipeline.rules.catalogue import Model
from pipeline.rules.lifecycle import Source
from pipeline.rules.limits import Books, Purchase
from pipeline.rules.pricing import upper_bound
from schemas.request import ImageType, Quality, Size
from schemas.wire import rfc3339, usd

TYPICAL_PROMPT = "x" * 1000  # about what a listing's prompt has


@dataclass(frozen=True, slots=True)
class Status:
    """Everything, read at one moment. `decision`: whether a picture with default options may be
    bought now by somebody who has not queued."""

    now: datetime
    model: Model
    decision: Decision
    limits: list[LimitReport]
    queue: QueueReport
    circuits: list[CircuitReport]
    days: list[DayReport]
    dead_letters: dict[str, int]


async def read(
    connection: AsyncConnection, model: Model, *, days: int, timezone: str = "UTC"
) -> Status:
    """Read the status in the caller's transaction; `days` calendar days in `timezone`."""
    now = await ledger.now(connection)
    purchase = default_purchase(model)
    limits = await reports.limits(connection, now, purchase.microusd)
    totals = {r.limit.window: (r.used_requests, r.used_microusd) for r in limits}
    books = Books([report.limit for report in limits], totals)
    place = Place(Source.API.priority)
    return Status(
        now,
        model,
        await admission.decide(connection, books, now, purchase, place),
        limits,
        await reports.queue(connection, now, limits),
        await reports.circuits(connection),
        await reports.days(connection, days, timezone),
        await reports.dead_letters(connection),
    )


def default_purchase(model: Model) -> Purchase:
    """A listing with default options, asked for over HTTP, at its upper bound."""
    size, quality = model.call_size(Size.SQUARE), model.call_quality(Quality.STANDARD)
    bound = upper_bound(model, size, quality, TYPICAL_PROMPT)
    return Purchase(Source.API.value, ImageType.LISTING.value, bound)


def as_data(found: Status) -> dict[str, Any]:
    """The status as JSON: camelCase, instants in RFC 3339, money in USD."""
    queue = found.queue
    shutdown = found.model.shutdown_date
    return {
        "model": {"name": found.model.name, "shutdownDate": shutdown and shutdown.isoformat()},
        "limits": [limit_data(report) for report in found.limits],
        "queue": {
            "queued": queue.queued,
            "generating": queue.generating,
            "generated": queue.generated,
            "waitsFor": queue.waits_for,
            "waitsUntil": _instant(queue.waits_until),
            "refusedUploads": queue.refused_uploads,
            "spoolBytes": queue.spool_bytes,
            "unpublished": queue.unpublished,
        },
        "circuits": [
            {"model": c.model, "code": c.code, "message": c.message, "until": _instant(c.until)}
            for c in found.circuits
        ],
        "days": [
            {
                "day": day.day.isoformat(),
                "count": day.count,
                "success": day.success,
                "failed": day.failed,
                "cost": float(usd(day.microusd)),
                "cached": day.cached,
                "saved": float(usd(day.saved_microusd)),
            }
            for day in found.days
        ],
        "deadLetters": found.dead_letters,
    }


def limit_data(report: LimitReport) -> dict[str, Any]:
    """One window as JSON."""
    limit = report.limit
    left = None if limit.max_requests is None else limit.max_requests - report.used_requests
    money = None if limit.max_microusd is None else limit.max_microusd - report.used_microusd
    return {
        "name": limit.name,
        "scope": limit.scope,
        "windowSeconds": limit.span_seconds,
        "used": {"requests": report.used_requests, "usd": float(usd(report.used_microusd))},
        "limit": {
            "requests": limit.max_requests,
            "usd": None if limit.max_microusd is None else float(usd(limit.max_microusd)),
        },
        "remaining": {
            "requests": left,
            "usd": None if money is None else float(usd(money)),
        },
        "freesAt": _instant(report.frees_at),
    }


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)
