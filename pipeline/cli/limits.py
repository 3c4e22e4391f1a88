"""`imagepipe limits show|apply`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pipeline import ledger
from pipeline.cli.screen import console
from pipeline.cli.session import in_transaction
from pipeline.ledger import LimitsRefused
from pipeline.rules.limits import Limit
from pipeline.rules.limits_file import LimitsError, parse_limits, render_limits, span_in_words
from pipeline.settings import load
from schemas.wire import usd

app = typer.Typer(help="See and change the limits.", no_args_is_help=True)


@app.command("show")
def show(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="As a file for `limits apply`.")] = False,
) -> None:
    """List the limits in force.

    Example: imagepipe limits show --toml > limits.toml
    """
    limits = in_transaction(load(), ledger.read_limits)
    if as_toml:
        sys.stdout.write(render_limits(limits, _backfill_percent(limits)))
    elif as_json:
        typer.echo(json.dumps([_as_json(limit) for limit in limits], indent=2))
    else:
        console().print(_table(limits))


@app.command("apply")
def apply(
    file: Annotated[
        Path, typer.Argument(help="TOML, as `limits show --toml` writes it; - for stdin.")
    ],
) -> None:
    """Replace all limits; every process follows at its next reservation.

    Windows that are new are filled from the ledger. Exits with 1 when the file is refused, and
    then nothing has changed.

    Example: imagepipe limits apply limits.toml
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
        limits = parse_limits(text)
        in_transaction(load(), lambda connection: ledger.apply_limits(connection, limits))
    except (OSError, UnicodeDecodeError, LimitsError, LimitsRefused) as error:
        typer.echo(f"imagepipe: {file}: {error}", err=True)
        raise typer.Exit(1) from None
    console().print(_table(limits))


def _backfill_percent(limits: list[Limit]) -> int:
    """The share that the derived limits were made with, read off the largest of them."""
    by_name = {limit.name: limit for limit in limits}
    shares = [
        (whole, part)
        for limit in limits
        if limit.derived and (own := by_name.get(limit.name.removeprefix("backfill-")))
        for whole, part in (
            (own.max_microusd, limit.max_microusd),
            (own.max_requests, limit.max_requests),
        )
        if whole and part is not None
    ]
    whole, part = max(shares, default=(2, 1))
    return -(-part * 100 // whole)


def _as_json(limit: Limit) -> dict[str, object]:
    return {
        "name": limit.name,
        "scope": limit.scope,
        "windowSeconds": limit.span_seconds,
        "requests": limit.max_requests,
        "usd": None if limit.max_microusd is None else float(usd(limit.max_microusd)),
        "derived": limit.derived,
    }


def _table(limits: list[Limit]) -> Table:
    table = Table("limit", "scope", "window", "requests", "USD")
    for limit in limits:
        table.add_row(
            limit.name + (" (derived)" if limit.derived else ""),
            limit.scope,
            span_in_words(limit.span_seconds),
            "" if limit.max_requests is None else f"{limit.max_requests:,}",
            "" if limit.max_microusd is None else f"{usd(limit.max_microusd):f}",
        )
    return table
