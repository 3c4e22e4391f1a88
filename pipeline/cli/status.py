"""`imagepipe status`."""

import json
from datetime import datetime
from functools import partial
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from pipeline import wiring
from pipeline.cli.screen import console
from pipeline.cli.session import in_transaction
from pipeline.rules.limits_file import span_in_words
from pipeline.settings import load
from pipeline.status import Status, as_data, limit_data, read
from schemas.wire import usd


def status(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="Days to look back.")] = 7,
) -> None:
    """Show windows, queue, provider and days.

    Example: imagepipe status --days 30
    """
    settings = load()
    model = wiring.catalogue().model(settings.model)
    found = in_transaction(
        settings, partial(read, model=model, days=days, timezone=settings.timezone)
    )
    if as_json:
        typer.echo(json.dumps(as_data(found), indent=2))
    else:
        console().print(_screen(found))


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
        data = limit_data(report)
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
        "day",
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
