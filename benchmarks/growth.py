"""Hits when much is stored already, beside the same on a database that holds next to nothing."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import psycopg

from benchmarks import load
from benchmarks.api import PATH, address_in, bodies
from benchmarks.intake import CONTEXTS, TURNS, in_turns, of
from benchmarks.known import PUBLISHED, make_known, make_past
from benchmarks.load import LoadResult
from benchmarks.results import Report, Run, Target, series, target
from benchmarks.stage import Stage
from tests.acceptance.harness import World, imagepipe

TIMES = int(os.environ.get("BENCH_GROWTH", "1"))  # as much stored as is said below
ASSETS, REQUESTS = 100_000 * TIMES, 1_000_000 * TIMES
FEW_ASSETS, FEW_REQUESTS = 2_000 * TIMES, 20_000 * TIMES
CONNECTIONS = 16
HOW = (
    "The hit path with {requests:,} answered requests of a year in the database, {assets:,}"
    " pictures, as many jobs, the entities' links, and the last {published:,} outcomes; and with"
    " nothing but the {contexts:,} pictures that are asked for. The full database is vacuumed and"
    " analysed, and each run begins with a fresh copy of it and a checkpoint. Ids are random, so"
    " after a checkpoint each page of their indexes goes to the log in full once; that is over, as"
    " on a server that has been busy for some minutes, after {events:,} events which are not"
    " counted. From Kafka: {events:,} more are sent to a worker, a quarter of them at once, and the"
    " clock runs from the first one sent until the last outcome has been read. Over HTTP: then,"
    " without the workers, a closed loop of {connections} kept-alive connections for {seconds:g}"
    " seconds. Both databases are on one server and take turns. Afterwards the tables are counted:"
    " one durable request, use, link and outcome an event or an answer."
)
KAFKA, HTTP = "imagepipe from Kafka", "imagepipe over HTTP"
EMPTY, FULL = "empty", "full"


def measure(stage: Stage) -> Report:
    events, seconds = (2_000, 2.0) if stage.quick else (20_000, 8.0)
    requests, assets = (FEW_REQUESTS, FEW_ASSETS) if stage.quick else (REQUESTS, ASSETS)
    with past(stage, requests, assets) as full:
        runs = [run(stage, full, events, seconds) for _ in range(stage.runs)]
    return Report(
        name="growth",
        title="Hits with a year's requests stored",
        how=HOW.format(
            requests=requests,
            assets=assets,
            published=min(requests, PUBLISHED),
            contexts=CONTEXTS,
            events=events,
            connections=CONNECTIONS,
            seconds=seconds,
        ),
        quick=stage.quick,
        series=[
            series(runs, figure(way, state), unit)
            for way, unit in ((KAFKA, "events/s"), (HTTP, "requests/s"))
            for state in (EMPTY, FULL)
        ],
        targets=[ratio(runs, way) for way in (KAFKA, HTTP)],
        about=stage.about(),
    )


def figure(way: str, state: str) -> str:
    return f"{way}, {state}"


def ratio(runs: list[Run], way: str) -> Target:
    full, empty = figure(way, FULL), figure(way, EMPTY)
    return target(runs, f"{full} / {EMPTY}", lambda r: r[full] / r[empty], "at least", 0.9)


@contextmanager
def past(stage: Stage, requests: int, assets: int) -> Iterator[str]:
    """A database that holds much, to be copied."""
    with stage.database() as url:
        make_known(url, CONTEXTS)
        make_past(url, requests, assets)
        yield url


def run(stage: Stage, full: str, events: int, seconds: float) -> Run:
    """Events and requests a second on both databases."""
    with holding(stage, None) as little, holding(stage, full) as much:
        with psycopg.connect(stage.postgres_url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")  # of all databases
        worlds = {EMPTY: little, FULL: much}
        return {**take_events(worlds, events), **post_hits(worlds, seconds)}


@contextmanager
def holding(stage: Stage, template: str | None) -> Iterator[World]:
    """A world on a copy of a database, or on one that has only the known pictures."""
    with stage.database(template) as url, stage.world(url) as world:
        if template is None:
            make_known(url, CONTEXTS)
        yield world


def take_events(worlds: Mapping[str, World], events: int) -> Run:
    """Events a second of a worker in each world, which has gone afterwards."""
    before = {state: traces(world) for state, world in worlds.items()}
    with ExitStack() as stack:
        workers = [world.start_worker() for world in worlds.values()]
        flows = {figure(KAFKA, s): stack.enter_context(of(w)) for s, w in worlds.items()}
        rates = in_turns(flows, events, warm_up=events)
        for worker in workers:
            worker.stop()
    for state, world in worlds.items():
        check(world, before[state], 2 * events)
    return rates


def post_hits(worlds: Mapping[str, World], seconds: float) -> Run:
    """Requests a second of an API process in each world, which take turns."""
    before = {state: traces(world) for state, world in worlds.items()}
    found: dict[str, list[LoadResult]] = {state: [] for state in worlds}
    addresses = {state: start_api(world) + PATH for state, world in worlds.items()}
    for _ in range(1 + TURNS):
        for state, address in addresses.items():
            found[state].append(load.post(address, bodies(), CONNECTIONS, seconds / TURNS))
    rates: dict[str, float] = {}
    for state, (warm_up, *counted) in found.items():
        answers = sum(one.count for one in counted)
        rates[figure(HTTP, state)] = answers / sum(one.seconds for one in counted)
        check(worlds[state], before[state], warm_up.count + answers)
    return rates


def start_api(world: World) -> str:
    """Start an API process; returns its address."""
    api = world.start_worker(*imagepipe("api"), IMAGEPIPE_API_PORT="0")
    api.wait_for_log("imagepipe API on ")
    return address_in(api.log)


def check(world: World, before: Sequence[int], hits: int) -> None:
    """Every hit has left one more of everything."""
    more = [now - then for now, then in zip(traces(world), before, strict=True)]
    if set(more) != {hits}:
        raise AssertionError(f"{hits} hits left {more} requests, uses, links and outcomes")


def traces(world: World) -> tuple[int, int, int, int]:
    """Answered requests, uses, links and outcomes."""
    [found] = world.query("""
        SELECT (SELECT count(*) FROM imagepipe.requests WHERE state = 'ready'),
               (SELECT sum(usage_count) FROM media_assets),
               (SELECT count(*) FROM imagepipe.entity_images),
               (SELECT count(DISTINCT request_id) FROM imagepipe.outbox)
    """)
    return found
