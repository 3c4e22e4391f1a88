"""`imagepipe replay`."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline import logs, replays, topics, wiring
from pipeline import replay as replaying
from pipeline.cli.replay_watch import Watch
from pipeline.cli.worker import refuse_unmigrated
from pipeline.database import create_engine
from pipeline.replays import Position, Replay
from pipeline.rules.replay_range import Range, RangeError, derived_id, parse_id, parse_range
from pipeline.settings import Settings, load
from pipeline.topic_reader import NotReplayable, Reader
from pipeline.topics import BrokerAway

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for."""

    id: str
    topic: str
    range: Range
    execute: bool
    reemit: bool
    restart: bool
    batch: int

    @property
    def options(self) -> str:
        return f"{self.range} --reemit" if self.reemit else str(self.range)


@dataclass(frozen=True, slots=True)
class Report:
    """What was done, or would be. `removed`: records that Kafka no longer had."""

    order: Order
    state: str  # dry run | finished | interrupted | finished before
    positions: Sequence[Position]
    counts: dict[str, int]
    removed: int


def replay(
    topic: Annotated[str, typer.Argument(help="A topic of entity-created events.")],
    *,
    earliest: Annotated[
        bool, typer.Option("--from-earliest", help="From the first record there is.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option("--from-datetime", help="From an ISO 8601 instant on; without a zone, UTC."),
    ] = None,
    back: Annotated[
        str | None, typer.Option("--by-duration", help="From so long ago on: PT2H, P7D, 2h, 7d.")
    ] = None,
    offsets: Annotated[
        list[str] | None,
        typer.Option(
            "--from-offset", help="PARTITION:OFFSET, repeatable; only the partitions named."
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--to-datetime", help="Up to, without it, an instant; without a zone, UTC."),
    ] = None,
    partitions: Annotated[
        list[int] | None, typer.Option("--partition", min=0, help="Repeatable; only these.")
    ] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Do it; else only say.")] = False,
    reemit: Annotated[
        bool,
        typer.Option(
            "--reemit",
            help="Publish the outcomes of known events again, under new ids (with ce_replayid).",
        ),
    ] = False,
    id_: Annotated[
        str | None,
        typer.Option("--id", help="The replay's name; by default derived from the options."),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="From its beginning again; re-emits under the same ids."),
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option("--batch", min=1, max=5000, help="Records per transaction."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The summary, for scripts.")] = False,
) -> None:
    """Take a topic's events in again, from where you say to what is there now.

    Only says what it would do, unless --execute is given. Known events change nothing and cost
    nothing; new ones become backfill: behind live requests, with their own share of each limit.
    The workers' offsets stay where they are. The same command goes on where it was ended.

    Exits with 1 when some records are no events; they are dead letters then. Workers announce the
    outcomes and make the pictures.

    Example: imagepipe replay entity-created --from-datetime 2026-11-01T00:00:00Z --execute
    """
    try:
        range_ = parse_range(
            earliest=earliest,
            since=since,
            back=back,
            offsets=offsets or [],
            until=until,
            partitions=partitions or [],
        )
        name = None if id_ is None else parse_id(id_)
    except RangeError as error:
        raise typer.BadParameter(str(error)) from None
    settings = load()
    settings.require("database_url", "kafka_bootstrap_servers")
    _refuse_topic(settings, topic, range_)
    logs.configure(settings.log_format, "WARNING")
    options = f"{range_} --reemit" if reemit else str(range_)
    order = Order(
        name or derived_id(topic, options),
        topic,
        range_,
        execute,
        reemit,
        restart,
        batch or settings.batch_size,
    )
    refuse_unmigrated(settings)
    if not topics.reachable(settings):
        raise BrokerAway(f"no Kafka broker answers at {settings.kafka_bootstrap_servers}")
    try:
        report = asyncio.run(_run(settings, order))
    except NotReplayable as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(json.dumps(_as_json(report), indent=2) if as_json else _as_text(report))
    if report.state == "interrupted":
        typer.echo("imagepipe: the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED)
    if report.counts["undecodable"] and report.state != "finished before":
        raise typer.Exit(1)


def _refuse_topic(settings: Settings, topic: str, range_: Range) -> None:
    if topic == settings.topic_dead_letters:
        raise typer.BadParameter(f"{topic} holds dead letters: use imagepipe dlq redrive --all")
    if topic in topics.names(settings)[1:]:
        raise typer.BadParameter(
            f"{topic} holds outcomes, not events; for example imagepipe replay"
            f" {settings.topic_entity_created} --from-earliest"
        )
    if settings.embedded_broker and range_.needs_times:
        raise typer.BadParameter(
            "the embedded broker cannot look offsets up by time; use --from-earliest, or"
            " --from-offset 0:0"
        )


async def _run(settings: Settings, order: Order) -> Report:
    engine = create_engine(settings.database_url, pool_size=1)
    try:
        intake = wiring.backfill(settings, engine)
        async with engine.connect() as connection:
            saved = None if order.restart else await replays.find(connection, order.id)
        with Reader(settings, order.topic) as reader:
            if saved is None:
                removed = 0
                positions = reader.positions(order.range, datetime.now(UTC))
            else:
                _refuse_other(order, saved)
                removed = reader.check(saved.positions)
                positions = saved.positions
                if saved.finished_at is not None:
                    counts = asdict(saved.counts)
                    return Report(order, "finished before", positions, counts, removed)
            with Watch(positions, listening=order.execute) as watch:
                batches = reader.batches(positions, order.batch)
                if not order.execute:
                    found = await replaying.look(engine, intake, batches, watch.seen)
                    return Report(order, "dry run", positions, asdict(found), removed)
                begun = await _begin(engine, order, positions if saved is None else None)
                finished = await replaying.run(
                    engine,
                    intake,
                    batches,
                    begun,
                    wiring.topics(settings),
                    reemitting=order.reemit,
                    seen=watch.seen,
                    stopped=watch.stopped,
                )
        async with engine.connect() as connection:
            ended = await replays.find(connection, order.id)
        assert ended is not None
        state = "finished" if finished else "interrupted"
        return Report(order, state, ended.positions, asdict(ended.counts), removed)
    finally:
        await engine.dispose()


def _refuse_other(order: Order, saved: Replay) -> None:
    if (saved.topic, saved.options) != (order.topic, order.options):
        raise typer.BadParameter(
            f"replay {saved.id} was begun as: imagepipe replay {saved.topic} {saved.options};"
            " give another --id, or --restart"
        )


async def _begin(engine: AsyncEngine, order: Order, positions: Sequence[Position] | None) -> Replay:
    """The replay as it is written down now; `positions` where it is a new one."""
    async with engine.begin() as connection:
        if positions is not None:
            await replays.begin(connection, order.id, order.topic, order.options, positions)
        begun = await replays.find(connection, order.id)
    assert begun is not None
    return begun


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "replay": report.order.id,
        "topic": report.order.topic,
        "options": report.order.options,
        "state": report.state,
        "partitions": [asdict(position) for position in report.positions],
        **report.counts,
        "removed": report.removed,
    }


def _as_text(report: Report) -> str:
    order, counts = report.order, report.counts
    lines = [f"replay {order.id}: {order.topic} {order.options}"]
    for position in report.positions:
        begun = f", done up to {position.next}" if position.next > position.first else ""
        lines.append(
            f"  partition {position.partition}: from {position.first} to {position.end}{begun},"
            f" {position.left} left"
        )
    if report.removed:
        lines.append(f"  Kafka has removed {report.removed} of these records meanwhile")
    known = f"{counts['known']} known"
    if report.state == "dry run":
        known += f" ({counts['finished']} finished)"
    lines.append(
        f"{report.state}: {counts['records']} records: {known}, {counts['new']} new,"
        f" {counts['undecodable']} no events"
    )
    if order.reemit and report.state != "dry run":
        lines.append(
            f"{counts['reemitted']} outcomes published again, {counts['gone']} not: their picture"
            " is gone"
        )
    if report.state == "dry run":
        lines.append("nothing was written; add --execute")
    if report.state == "finished before":
        lines.append("nothing was done; add --restart to do it again, or give another --id")
    return "\n".join(lines)
