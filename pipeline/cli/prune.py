"""`imagepipe prune`."""

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from pipeline import prune as pruning
from pipeline.cli.session import in_transaction
from pipeline.database import create_engine
from pipeline.prune import Old
from pipeline.rules.limits_file import LimitsError, parse_span
from pipeline.settings import Settings, load


def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", help="Such as 90d; at least 1d.")
    ] = "90d",
    execute: Annotated[bool, typer.Option("--execute", help="Do it; else only say.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Remove old answered requests, published outcomes, and reservations outside every window.

    Says what it would remove, unless --execute is given. Never touches pictures, logs, which entity
    got which picture, or the identities of requests that a replay would buy again.

    Example: imagepipe prune --older-than 180d --execute
    """
    settings = load()
    before = datetime.now(UTC) - timedelta(seconds=_seconds(older_than))
    if execute:
        settings.require("database_url")
        found = asyncio.run(_run(settings, before))
    else:
        found = in_transaction(settings, partial(pruning.count, before=before))
    if as_json:
        typer.echo(json.dumps({"executed": execute, **asdict(found)}, indent=2))
        return
    verb = "removed" if execute else "would remove (add --execute)"
    typer.echo(
        f"{verb} what is older than {before:%Y-%m-%d %H:%M} UTC: {found.requests} requests,"
        f" {found.messages} published outcomes, {found.reservations} reservations"
    )


def _seconds(span: str) -> int:
    try:
        seconds = parse_span(span)
    except LimitsError as error:
        raise typer.BadParameter(f"--older-than: {error}") from None
    if seconds < 86_400:
        raise typer.BadParameter("--older-than: at least 1d: idempotency keys are kept for a day")
    return seconds


async def _run(settings: Settings, before: datetime) -> Old:
    engine = create_engine(settings.database_url, pool_size=1)
    removed = Old()
    try:
        with Console(stderr=True).status("removing") as status:
            async for batch in pruning.prune(engine, before):
                removed += batch
                status.update(
                    f"removed {removed.requests} requests, {removed.messages} outcomes,"
                    f" {removed.reservations} reservations"
                )
    finally:
        await engine.dispose()
    return removed
