"""Hits over HTTP: requests for pictures that exist, beside a bare FastAPI route with one SELECT."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from benchmarks import load
from benchmarks.known import data, make_known
from benchmarks.load import LoadResult
from benchmarks.results import Report, Run, Target, series, target
from benchmarks.stage import Stage
from tests.acceptance.harness import World, imagepipe

CONTEXTS = 1_000
ENTITIES = 5_000
CONNECTIONS = (1, 16, 64)
PATH = "/api/ai/generate-image"
HOW = (
    "A closed loop of 1, 16 and 64 kept-alive connections posts requests for {contexts:,} known"
    " contexts, for {seconds:g} seconds after a warm-up. imagepipe validates each, records it,"
    " counts the use, links the entity, writes `image-ready` to the outbox, commits durably and"
    " logs a line; the bare FastAPI route parses the same body with a pydantic model and answers"
    " from one indexed SELECT, and leaves nothing behind, not even in a log. Each is one process"
    " under uvicorn with uvloop and httptools, and they take turns on one server with the load"
    " generator, a process of its own. After imagepipe's turns the tables are counted: one durable"
    " request, use, link and outcome an answer."
)
US, BARE = "imagepipe", "FastAPI with a SELECT"

Answering = Callable[[int, float], LoadResult]
"""Puts load on a server: connections, seconds."""


def measure(stage: Stage) -> Report:
    seconds = 2.0 if stage.quick else 10.0
    samples: dict[str, list[float]] = {}
    runs = [run(stage, seconds, samples) for _ in range(stage.runs)]
    both = [(name, number) for number in CONNECTIONS for name in (US, BARE)]
    return Report(
        name="api",
        title="Hits over HTTP",
        how=HOW.format(contexts=CONTEXTS, seconds=seconds),
        quick=stage.quick,
        series=[
            series(runs, figure(name, number, what), unit)
            for what, unit in (("rate", "requests/s"), ("p50", "ms"), ("p99", "ms"))
            for name, number in both
        ],
        targets=[ratio(runs, number) for number in CONNECTIONS],
        about=stage.about(),
        samples=samples,
    )


def figure(name: str, connections: int, what: str) -> str:
    wires = "1 connection" if connections == 1 else f"{connections} connections"
    return f"{name}, {wires}" + ("" if what == "rate" else f", {what}")


def ratio(runs: list[Run], connections: int) -> Target:
    us, bare = (figure(name, connections, "rate") for name in (US, BARE))
    return target(runs, f"{us} / {BARE}", lambda r: r[us] / r[bare], "at least", 0.6)


def run(stage: Stage, seconds: float, samples: dict[str, list[float]]) -> Run:
    """Rates and latencies of both, who take turns at each number of connections."""
    figures: dict[str, float] = {}
    with imagepipe_api(stage) as us, bare_fastapi(stage) as bare:
        for connections in CONNECTIONS:
            for name, answering in ((BARE, bare), (US, us)):
                answering(connections, seconds / 5)
                found = answering(connections, seconds)
                figures[figure(name, connections, "rate")] = found.rate
                for percent in (50, 99):
                    at = figure(name, connections, f"p{percent}")
                    figures[at] = found.percentile(percent)
                every = max(1, found.count // 1_000)
                samples.setdefault(figure(name, connections, "rate"), []).extend(
                    round(one, 3) for one in sorted(found.latencies)[::every]
                )
    return figures


@contextmanager
def imagepipe_api(stage: Stage) -> Iterator[Answering]:
    """One API process and no worker; at the end everything it answered is counted."""
    answered = 0

    def answering(connections: int, seconds: float) -> LoadResult:
        nonlocal answered
        found = load.post(address + PATH, bodies(), connections, seconds)
        answered += found.count
        return found

    with stage.database() as url, stage.world(url) as world:
        make_known(url, CONTEXTS)
        api = world.start_worker(*imagepipe("api"), IMAGEPIPE_API_PORT="0")
        api.wait_for_log("imagepipe API on ")
        address = address_in(api.log)
        yield answering
        check(world, answered)


@contextmanager
def bare_fastapi(stage: Stage) -> Iterator[Answering]:
    """The bare route, on the same pictures under hashes of its own."""
    with stage.database() as url, stage.world(url) as world:
        make_known(url, CONTEXTS)
        hash_as_bare(url)
        options = ["--port", "0", "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        bare = world.start_worker(
            *(sys.executable, "-m", "uvicorn", "benchmarks.beside.fastapi_select:app", *options),
            BESIDE_DATABASE=url,
        )
        bare.wait_for_log("Uvicorn running on ")
        address = address_in(bare.log)
        yield lambda connections, seconds: load.post(address + PATH, bodies(), connections, seconds)


def hash_as_bare(url: str) -> None:
    # Its engine is made when it is imported, which only this benchmark should pay for.
    from benchmarks.beside.fastapi_select import Body  # noqa: PLC0415

    hashes = [Body(**data(number, CONTEXTS)).context_hash for number in range(CONTEXTS)]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.cursor().executemany(
            "UPDATE media_assets SET context_hash = %s WHERE cloudinary_public_id = %s",
            [(hash_, f"benchmark-{number}") for number, hash_ in enumerate(hashes)],
        )
        connection.execute("VACUUM ANALYZE media_assets")


def bodies() -> list[bytes]:
    return [json.dumps(data(n, CONTEXTS), ensure_ascii=False).encode() for n in range(ENTITIES)]


def address_in(log: str) -> str:
    found = re.search(r"http://[0-9.]+:\d+", log)
    assert found
    return found[0]


def check(world: World, answered: int) -> None:
    """Every answer has left what it should, once."""
    [(requests, uses, links, outcomes)] = world.query("""
        SELECT (SELECT count(*) FROM imagepipe.requests WHERE state = 'ready' AND cached),
               (SELECT sum(usage_count) FROM media_assets),
               (SELECT count(*) FROM imagepipe.entity_images),
               (SELECT count(DISTINCT request_id) FROM imagepipe.outbox)
    """)
    if {requests, uses, links, outcomes} != {answered}:
        raise AssertionError(
            f"of {answered} answers: {requests} requests, {uses} uses, {links} links, {outcomes}"
            " outcomes"
        )
