"""`imagepipe dlq list|show|redrive|drop`."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table
from sqlalchemy import Row

from pipeline import redrive as letters
from pipeline import topics
from pipeline.cli.publish import Publisher
from pipeline.cli.screen import console, plain
from pipeline.cli.session import in_transaction
from pipeline.redrive import Fate
from pipeline.settings import Settings, load

app = typer.Typer(help="Browse dead letters, redrive or drop them.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
Ids = Annotated[list[UUID] | None, typer.Argument(help="As `imagepipe dlq list` shows them.")]
Code = Annotated[str | None, typer.Option("--code", help="Those with this reason.")]
All = Annotated[bool, typer.Option("--all", help="All that are open.")]
AT_ONCE = 200  # letters between two marks


@app.command("list")
def list_(
    code: Code = None,
    also_done: Annotated[
        bool, typer.Option("--all", help="Also those redriven or dropped.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first, with their reason and where they came from.

    Example: imagepipe dlq list --code bad_request
    """
    find = partial(letters.find, code=code, also_done=also_done, limit=limit)
    rows = in_transaction(load(), find)
    if as_json:
        typer.echo(json.dumps([plain(row) for row in rows], indent=2))
        return
    table = Table("dead letter", "recorded (UTC)", "from", "tries", "fate", "reason")
    for row in rows:
        place = f"{row.topic}[{row.partition}]@{row.offset}"
        recorded = f"{row.recorded_at:%m-%d %H:%M:%S}"
        reason = f"{row.code}: {row.message}"
        table.add_row(str(row.id), recorded, place, str(row.attempts), row.fate or "", reason)
    console().print(table)


@app.command("show")
def show(
    letter: Annotated[UUID, typer.Argument(help="As `imagepipe dlq list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Show a dead letter with the record itself: key, headers, value.

    Exits with 1 when there is no such letter.

    Example: imagepipe dlq show 3b7c9a55-0c1d-5f3e-9b1a-6a1f0e5d2c47
    """
    settings = load()
    [row] = _chosen(settings, [letter], None, everything=False, also_done=True)
    records = dict(letters.records(settings, [row]))
    data = plain(row) | {"record": None}
    if record := records.get(letter):
        headers = {name: _text(value) for name, value in record.headers}
        data["record"] = {
            "key": _text(record.key),
            "headers": headers,
            "value": _text(record.value),
        }
    if as_json:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    screen = console()
    found = data.pop("record")
    for name, value in data.items():
        screen.print(f"{name:12} {value}", highlight=False, markup=False)
    if found is None:
        screen.print("Kafka no longer has the record.")
        return
    screen.print(f"key          {found['key']}", highlight=False, markup=False)
    for name, value in found["headers"].items():
        screen.print(f"header       {name}: {value}", highlight=False, markup=False)
    screen.print(found["value"], highlight=False, markup=False)


@app.command("redrive")
def redrive(
    ids: Ids = None, code: Code = None, everything: All = False, as_json: AsJson = False
) -> None:
    """Send dead letters through the input topic once more, after a fix.

    Those that are refused again become new dead letters, with one attempt more. Exits with 1 when
    Kafka no longer has some of them; they stay open.

    Example: imagepipe dlq redrive --code bad_request
    """
    settings = load()
    rows = _chosen(settings, ids or [], code, everything=everything)
    topics.ensure(settings)
    publisher = Publisher(settings)
    sent: list[UUID] = []
    total = 0
    for id_, record in letters.records(settings, rows):
        publisher.send(letters.again(record, settings.topic_entity_created))
        sent.append(id_)
        if len(sent) >= AT_ONCE:
            total += _settle(settings, publisher, sent)
    total += _settle(settings, publisher, sent)
    publisher.finish()
    typer.echo(json.dumps({"redriven": total}) if as_json else f"{total} redriven")
    if total < len(rows):
        typer.echo(f"imagepipe: Kafka no longer has {len(rows) - total} of them", err=True)
        raise typer.Exit(1)


@app.command("drop")
def drop(
    ids: Ids = None, code: Code = None, everything: All = False, as_json: AsJson = False
) -> None:
    """Close dead letters that nobody will mend. Their records stay on the topic.

    Example: imagepipe dlq drop 3b7c9a55-0c1d-5f3e-9b1a-6a1f0e5d2c47
    """
    settings = load()
    rows = _chosen(settings, ids or [], code, everything=everything)
    _mark(settings, [row.id for row in rows], "dropped")
    typer.echo(json.dumps({"dropped": len(rows)}) if as_json else f"{len(rows)} dropped")


def _chosen(
    settings: Settings,
    ids: Sequence[UUID],
    code: str | None,
    *,
    everything: bool,
    also_done: bool = False,
) -> Sequence[Row[Any]]:
    """The letters meant; ends with 1 where one that was named is not there, or not open."""
    if (bool(ids), code is not None, everything).count(True) != 1:
        raise typer.BadParameter("name dead letters by their ids, or take --code CODE, or --all")
    find = partial(letters.find, ids=ids, code=code, also_done=also_done)
    rows = in_transaction(settings, find)
    if missing := set(ids) - {row.id for row in rows}:
        typer.echo(f"imagepipe: there is no open dead letter {min(missing)}", err=True)
        raise typer.Exit(1)
    return rows


def _settle(settings: Settings, publisher: Publisher, sent: list[UUID]) -> int:
    """Mark what the broker has acknowledged."""
    publisher.settle()
    _mark(settings, sent, "redriven")
    number = len(sent)
    sent.clear()
    return number


def _mark(settings: Settings, ids: list[UUID], fate: Fate) -> None:
    if ids:
        in_transaction(settings, partial(letters.mark, ids=ids.copy(), fate=fate))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")
