"""`imagepipe reconcile`."""

import json
from functools import partial
from typing import Annotated, Any

import typer
from rich.table import Table

from pipeline import wiring
from pipeline.cli.screen import console
from pipeline.cli.session import in_transaction
from pipeline.reconcile import Bill, total
from pipeline.reconcile import reconcile as read
from pipeline.settings import load
from schemas.wire import usd


def reconcile(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="Days to look back.")] = 30,
) -> None:
    """Compare the ledger with the usage that the provider counted, per day and model.

    Compare `settled` with the provider's own bill: it is at least that, and at most that plus what
    is unknown. Exits with 1 when the ledger differs from the recorded usage.

    Example: imagepipe reconcile --days 7
    """
    settings = load()
    work = partial(read, catalogue=wiring.catalogue(), days=days, timezone=settings.timezone)
    bills = in_transaction(settings, work)
    if as_json:
        data = {"days": [_data(bill) for bill in bills], "total": _money(total(bills))}
        typer.echo(json.dumps(data, indent=2))
    else:
        console().print(_table(bills))
    if any(bill.difference for bill in bills):
        raise typer.Exit(1)


def _data(bill: Bill) -> dict[str, Any]:
    return {"day": bill.day.isoformat(), "model": bill.model, **_money(total([bill]))}


def _money(sums: dict[str, int]) -> dict[str, Any]:
    counts = ("calls", "unknown_calls")
    names = {"unknown_calls": "unknownCalls"}
    return {
        names.get(name, name): value if name in counts else float(usd(value))
        for name, value in sums.items()
    }


def _table(bills: list[Bill]) -> Table:
    table = Table(
        "day",
        "model",
        "calls",
        "settled USD",
        "from usage",
        "estimated",
        "difference",
        "unknown",
        "held",
        title="The ledger and the recorded usage",
        title_justify="left",
        show_footer=True,
    )
    for bill in bills:
        table.add_row(bill.day.isoformat(), bill.model, *_cells(total([bill])))
    table.columns[0].footer = "total"
    for column, cell in zip(table.columns[2:], _cells(total(bills)), strict=True):
        column.footer = cell
    return table


def _cells(sums: dict[str, int]) -> list[str]:
    unknown = f"{sums['unknown_calls']} calls, {usd(sums['unknown']):.6f}"
    return [
        str(sums["calls"]),
        *(f"{usd(sums[n]):.6f}" for n in ("settled", "recomputed", "estimated", "difference")),
        unknown if sums["unknown_calls"] else "",
        f"{usd(sums['held']):.6f}",
    ]
