"""`imagepipe ledger verify`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from pipeline import audit
from pipeline.cli.screen import console
from pipeline.cli.session import in_transaction
from pipeline.settings import load

app = typer.Typer(help="Check the ledger.", no_args_is_help=True)


@app.callback()
def ledger() -> None:
    """Check the ledger."""


@app.command("verify")
def verify(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Recompute every window from its rows, and compare reservations with attempts.

    Takes the ledger's lock while it reads; changes nothing. Exits with 1 when something differs.

    Example: imagepipe ledger verify
    """
    differences = in_transaction(load(), audit.verify)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in differences], indent=2))
    elif differences:
        table = Table("where", "written", "expected")
        for one in differences:
            table.add_row(one.where, one.written, one.expected)
        console().print(table)
    else:
        typer.echo("the ledger adds up")
    if differences:
        raise typer.Exit(1)
