"""`imagepipe status`."""

import json
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import ledger, reports, wiring
from pipeline.cli.screen import console
from pipeline.cli.session import in_transaction
from pipeline.reports import CircuitReport, DayReport, LimitReport, QueueReport
from pipeline.rules.catalogue import Model
from pipeline.rules.limits_file import span_in_words
from pipeline.rules.pricing import upper_bound
from pipeline.settings import load
from schemas.request import Quality, Size
from schemas.wire import rfc3339, usd

TYPICAL_PROMPT = "x" * 1000  # about what a listing's prompt has


@dataclass(frozen=True, slots=True)
class Status:
    """Everything the command shows, read at one moment."""

    model: Model
    limits: list[LimitReport]
    queue: QueueReport
    circuits: list[CircuitReport]
    days: list[DayReport]
    dead_letters: dict[str, int]


def status(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="Days to look back.")] = 7,
) -> None:
    """Show windows, queue, provider and days.

    Example: imagepipe status --days 30
    """
    settings = load()
    model = wiring.catalogue().model(settings.model)
    found = in_transaction(settings, partial(read, model=model, days=days))
    if as_json:
        typer.echo(json.dumps(as_data(found), indent=2))
    else:
        console().print(_screen(found))


async def read(connection: AsyncConnection, model: Model, days: int) -> Status:
    """Read the status in the caller's transaction."""
    now = await ledger.now(connection)
    size, quality = model.call_size(Size.SQUARE), model.call_quality(Quality.STANDARD)
    limits = await reports.limits(
        connection, now, upper_bound(model, size, quality, TYPICAL_PROMPT)
    )
    return Status(
        model,
        limits,
        await reports.queue(connection, now, limits),
        await reports.circuits(connection),
        await reports.days(connection, days),
        await reports.dead_letters(connection),
    )


def as_data(found: Status) -> dict[str, Any]:
    """The status as JSON: camelCase, instants in RFC 3339, money in USD."""
    queue = found.queue
    shutdown = found.model.shutdown_date
    return {
        "model": {"name": found.model.name, "shutdownDate": shutdown and shutdown.isoformat()},
        "limits": [_limit_data(report) for report in found.limits],
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
            }
            for day in found.days
        ],
        "deadLetters": found.dead_letters,
    }


def _limit_data(report: LimitReport) -> dict[str, Any]:
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


def _screen(found: Status) -> Group:
    return Group(_windows(found), "", _queue(found), "", _days(found))


def _windows(found: Status) -> Table:
    table = Table(
        "limit",
        "scope",
        "window",
        "used",
        "maximum",
        "remaining",
        "frees at (UTC)",
        title="Windows",
        title_justify="left",
    )
    for report in found.limits:
        data = _limit_data(report)
        kinds = [kind for kind in ("requests", "usd") if data["limit"][kind] is not None]
        table.add_row(
            report.limit.name,
            report.limit.scope,
            span_in_words(report.limit.span_seconds),
            *(
                " / ".join(_amount(data[column][kind], kind) for kind in kinds)
                for column in ("used", "limit", "remaining")
            ),
            _when(report.frees_at, "never" if report.blocked else "now"),
        )
    return table


def _amount(value: float, kind: str) -> str:
    return f"{value:,}" if kind == "requests" else f"${value:,.6f}".rstrip("0").rstrip(".")


def _when(instant: datetime | None, otherwise: str) -> str:
    return otherwise if instant is None else f"{instant:%m-%d %H:%M:%S}"


def _queue(found: Status) -> str:
    queue = found.queue
    lines = [
        f"Queue: {queue.queued} queued, {queue.generating} generating, {queue.generated} to upload"
        f" ({queue.spool_bytes:,} bytes in the spool), {queue.unpublished} outcomes to publish"
    ]
    if queue.waits_for:
        until = _when(queue.waits_until, "the limit is changed")
        lines.append(f"Waiting for limit {queue.waits_for} until {until} UTC")
    if queue.refused_uploads:
        lines.append(f"The media host refuses {queue.refused_uploads} pictures; they are kept")
    shutdown = found.model.shutdown_date
    lines.append(f"Model: {found.model.name}" + (f", shut down on {shutdown}" if shutdown else ""))
    lines += [
        f"No calls to {c.model} until {_when(c.until, f'you say: imagepipe resume {c.model}')}:"
        f" {c.code}: {c.message}"
        for c in found.circuits
    ]
    if found.dead_letters:
        letters = ", ".join(f"{count} {code}" for code, count in found.dead_letters.items())
        lines.append(f"Dead letters: {letters}")
    return "\n".join(lines)


def _days(found: Status) -> Table:
    table = Table(
        "day (UTC)",
        "count",
        "success",
        "failed",
        "cost USD",
        "cached",
        title="Days",
        title_justify="left",
    )
    for day in found.days:
        cost = f"{usd(day.microusd):.6f}"
        table.add_row(
            day.day.isoformat(), *map(str, (day.count, day.success, day.failed, cost, day.cached))
        )
    return table
