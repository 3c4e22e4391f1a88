"""`imagepipe plan` and `imagepipe generate-missing`."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from pipeline import planning, wiring
from pipeline.backfill import BATCH, Backfill, Caps, Progress
from pipeline.cli.screen import console
from pipeline.database import create_engine
from pipeline.planning import Fate, History, Plan, Planner, in_batches, nothing_seen
from pipeline.preparation import Prepared
from pipeline.settings import Settings, SettingsError, load
from pipeline.sources import Found, Invalid, Source, SourceError
from pipeline.sources.configuration import source_of
from schemas.request import EntityType
from schemas.wire import usd

FAILURES, PARKED = 1, 3
PLAN_BATCH = 2_000  # entities in one look-up

SourceWord = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A .jsonl or .csv file, - for standard input, topic:NAME, a source of sources.toml,"
        " or of the CMS: listings, articles, news, neighborhoods, or cms for all of them.",
    ),
]
Types = Annotated[
    list[EntityType] | None, typer.Option("--type", help="Only these entities; may be repeated.")
]
Configuration = Annotated[
    Path | None, typer.Option("--sources", help="A sources.toml; default: the one here.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first wrong line or row.")]
AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]


@dataclass(frozen=True, slots=True)
class Planned:
    """A whole plan and how long it takes, in seconds (None: a limit lets nothing through)."""

    plan: Plan
    seconds: float | None


def plan(
    source: SourceWord,
    types: Types = None,
    sources: Configuration = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Say what generating a source's missing pictures would do; spends nothing, writes nothing.

    Exits with 1 when lines or rows of the source cannot be used; they are named.

    Example: imagepipe plan listings, or: imagepipe plan entities.jsonl --json
    """
    settings = load()
    found = _plan(settings, source, types, sources, strict=strict)
    if as_json:
        typer.echo(json.dumps(_data(found), indent=2))
    else:
        _print(found)
    if found.plan.fates[Fate.INVALID]:
        raise typer.Exit(FAILURES)


def generate_missing(  # noqa: PLR0917 (options, each with its name)
    source: SourceWord,
    execute: Annotated[bool, typer.Option("--execute", help="Do it; else only plan.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="Buy at most so many pictures.")
    ] = None,
    max_usd: Annotated[
        float | None,
        typer.Option("--max-usd", min=0, help="Buy for at most so much, by upper bounds."),
    ] = None,
    types: Types = None,
    sources: Configuration = None,
    strict: Strict = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until parked work is done, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Generate the missing pictures of a source; without --execute only the plan is shown.

    Goes through the same intake, limits and workers as events, behind them, with its share of each
    window. Ctrl-C stops after the batch in hand; started again it goes on. Needs a running worker.

    Exit codes: 0 all done, 1 something failed or cannot be used, 3 parked work remains (workers go
    on with it as windows free).

    Example: imagepipe generate-missing listings --execute --max-usd 5
    """
    if not execute:
        plan(source, types, sources, strict=strict, as_json=as_json)
        typer.echo("nothing was done: add --execute", err=True)
        return
    settings = load()
    settings.require("database_url")
    caps = Caps(limit, None if max_usd is None else round(max_usd * 1_000_000))
    found = source_of_word(source, settings, sources)
    progress = asyncio.run(_generate(settings, found, types, caps, strict=strict, wait=wait))
    _summary(progress, as_json=as_json)
    outcome = progress.outcome
    if outcome.failed or progress.plan.fates[Fate.INVALID]:
        raise typer.Exit(FAILURES)
    if outcome.waiting or progress.capped or progress.reading:
        raise typer.Exit(PARKED)


def source_of_word(word: str, settings: Settings, configuration: Path | None) -> Source:
    try:
        return source_of(word, settings, configuration)
    except SourceError as error:
        raise SettingsError(str(error)) from None


def _plan(
    settings: Settings,
    word: str,
    types: list[EntityType] | None,
    configuration: Path | None,
    *,
    strict: bool,
) -> Planned:
    settings.require("database_url")
    source = source_of_word(word, settings, configuration)
    wanted = _of_types(types)

    async def run() -> Planned:
        engine = create_engine(settings.database_url, pool_size=1)
        found = Plan()
        with nothing_seen() as seen, _counter() as bar:
            task = bar.add_task("entities read", total=None)
            planner = _planner(settings, source, seen)
            async with engine.connect() as connection:
                history = await History.read(connection)
                for batch in in_batches(_read(source, strict=strict), PLAN_BATCH):
                    for one in await planner.plan(connection, batch):
                        if one.prepared is None or wanted(one.prepared):
                            found.add(one, history.expected(one.prepared) if one.prepared else 0)
                    bar.update(task, completed=found.entities)
                seconds = await planning.seconds_needed(
                    connection, found.by_type, found.expected_by_type
                )
        await engine.dispose()
        return Planned(found, seconds)

    try:
        return asyncio.run(run())
    except SourceError as error:
        raise SettingsError(str(error)) from None


async def _generate(
    settings: Settings,
    source: Source,
    types: list[EntityType] | None,
    caps: Caps,
    *,
    strict: bool,
    wait: bool,
) -> Progress:
    engine = create_engine(settings.database_url, pool_size=2)
    with nothing_seen() as seen, _bar() as bar:
        backfill = Backfill(
            engine,
            _planner(settings, source, seen),
            wiring.topics(settings),
            trial=settings.trial,
            caps=caps,
            wanted=_of_types(types),
        )
        _stop_on_interrupt(backfill)
        task, started = bar.add_task("", total=None), time.monotonic()
        batches = in_batches(_read(source, strict=strict), BATCH)
        try:
            async for progress in backfill.run(batches, wait=wait):
                outcome = progress.outcome
                total = None if progress.reading else outcome.finished + outcome.waiting
                words = _words(progress, time.monotonic() - started)
                bar.update(task, completed=outcome.finished, total=total, description=words)
        except SourceError as error:
            raise SettingsError(str(error)) from None
        finally:
            await engine.dispose()
    return backfill.progress


def _planner(settings: Settings, source: Source, seen: planning.Seen) -> Planner:
    return Planner(
        source.name,
        wiring.chosen_model(settings),
        output_format=settings.output_format,
        trial=settings.trial,
        seen=seen,
    )


def _read(source: Source, *, strict: bool) -> Iterator[Found]:
    """The source; what cannot be used is named at once, and ends it where that is asked for."""
    for found in source.read():
        if isinstance(found, Invalid):
            typer.echo(f"imagepipe: {found.where}: {found.reason}", err=True)
            if strict:
                raise SourceError("stopped at the first wrong line, because of --strict")
        yield found


def _of_types(types: list[EntityType] | None) -> Callable[[Prepared], bool]:
    return lambda prepared: not types or prepared.request.upload.entity_type in types


def _stop_on_interrupt(backfill: Backfill) -> None:
    """The first Ctrl-C ends after the batch in hand, a second one at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        backfill.stop.set()
        loop.remove_signal_handler(signal.SIGINT)
        typer.echo("stopping after the batch in hand; Ctrl-C again stops at once", err=True)

    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGINT, stop)


def _counter() -> Bar:
    columns = TextColumn("{task.completed} {task.description}")
    return Bar(columns, console=Console(stderr=True), transient=True)


def _bar() -> Bar:
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
    return Bar(*columns, console=Console(stderr=True), transient=True)


def _words(progress: Progress, seconds: float) -> str:
    outcome = progress.outcome
    rate = outcome.finished / seconds * 60 if seconds > 1 else 0
    return (
        f"{outcome.hits} hits, {outcome.generated} generated, {outcome.failed} failed,"
        f" {outcome.parked} parked, {usd(outcome.microusd):.4f} USD, {rate:.0f} a minute"
        f"{_time_left(progress, rate / 60)}"
    )


def _time_left(progress: Progress, rate: float) -> str:
    """How long what waits takes at the rate so far (a second) and under the limits of now."""
    waiting, blocked = progress.outcome.waiting, progress.seconds_blocked
    if progress.reading or not waiting:
        return ""
    if blocked is None:
        return ", a limit lets nothing more through"
    if not blocked and not rate:
        return ""
    seconds = max(blocked, waiting / rate if rate else 0)
    return f", about {timedelta(seconds=ceil(seconds))} to go"


def _data(found: Planned) -> dict[str, Any]:
    plan, seconds = found.plan, found.seconds
    return {
        "entities": plan.entities,
        **{fate.value: plan.fates[fate] for fate in Fate},
        "distinctContexts": plan.contexts,
        "upperBoundUsd": float(usd(plan.bound)),
        "expectedUsd": float(usd(plan.expected)),
        "days": None if seconds is None else round(seconds / 86_400, 2),
        "reasons": plan.reasons,
    }


MEANINGS = {
    Fate.PHOTO: "have a real photo",
    Fate.DONE: "have a picture already",
    Fate.UNDERWAY: "wait already",
    Fate.FAILED: "failed before (imagepipe jobs retry)",
    Fate.INVALID: "cannot be used",
    Fate.DUPLICATE: "stand there twice",
    Fate.HIT: "get a picture that exists",
    Fate.JOIN: "share a picture with another",
    Fate.GENERATE: "to generate",
}


def _print(found: Planned) -> None:
    table = Table("entities", "number", title="Plan", title_justify="left")
    table.add_row("in the source", f"{found.plan.entities:,}")
    for fate, meaning in MEANINGS.items():
        table.add_row(meaning, f"{found.plan.fates[fate]:,}")
    screen = console()
    screen.print(table)
    screen.print(
        f"{found.plan.contexts:,} distinct contexts are still to be asked for", highlight=False
    )
    screen.print(
        f"At most {usd(found.plan.bound):,.6f} USD; expected {usd(found.plan.expected):,.6f} USD",
        highlight=False,
    )
    if found.seconds is None:
        screen.print("A limit lets nothing of it through: see imagepipe limits show")
    elif found.seconds:
        days = found.seconds / 86_400
        screen.print(f"Under the current limits it takes {days:,.1f} days", highlight=False)
    else:
        screen.print("It fits into the current windows")
    for reason in found.plan.reasons:
        screen.print(f"  {reason}", highlight=False, markup=False)


def _summary(progress: Progress, *, as_json: bool) -> None:
    outcome, plan = progress.outcome, progress.plan
    data = {
        "entities": plan.entities,
        "entered": progress.entered,
        "leftOut": progress.capped,
        "photo": plan.fates[Fate.PHOTO],
        "done": plan.fates[Fate.DONE],
        "invalid": plan.fates[Fate.INVALID],
        "duplicate": plan.fates[Fate.DUPLICATE],
        "hits": outcome.hits,
        "generated": outcome.generated,
        "failed": outcome.failed,
        "waiting": outcome.waiting,
        "parked": outcome.parked,
        "usd": float(usd(outcome.microusd)),
    }
    if as_json:
        typer.echo(json.dumps(data, indent=2))
        return
    typer.echo(
        f"{plan.entities} entities: {data['photo']} have a photo, {data['done']} a picture,"
        f" {data['invalid']} cannot be used; {progress.entered} asked for now"
    )
    typer.echo(
        f"{outcome.generated} generated for {usd(outcome.microusd):.6f} USD, {outcome.hits} for"
        f" nothing, {outcome.failed} failed, {outcome.waiting} wait"
        + (f", {progress.capped} left out by --limit or --max-usd" if progress.capped else "")
    )
