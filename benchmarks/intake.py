"""The hit path of one worker: events for pictures that exist, from topic to topic."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from benchmarks.known import data, make_known
from benchmarks.results import Report, Run, series, target
from benchmarks.stage import Stage
from benchmarks.traffic import Event, Traffic, event, traffic
from tests.acceptance.harness import World

CONTEXTS = 1_000
WARM_UP = 2_000
TURNS = 4  # in which systems that take turns have a quarter of the events each
HOW = (
    "Events for {contexts:,} known contexts are sent at once to a worker that is warm and idle; the"
    " clock runs from the first one sent until the last outcome has been read from its topic."
    " {events:,} events for imagepipe, which records each request, counts the use, links the entity"
    " and publishes `image-ready`; the same {events:,} for a bare aiokafka loop that copies them"
    " from topic to topic, and for a Faust agent that passes them through as its documentation"
    " shows; {few:,} for a straightforward Faust agent that does imagepipe's job one event at a"
    " time. Each is one process; topics have four partitions, acks=all. After imagepipe's runs the"
    " tables are counted: one durable request and one use an event, and ids of outcomes are"
    " distinct."
)
US, COPY, PASS, SINGLE = "imagepipe", "aiokafka copy", "Faust pass-through", "Faust one at a time"


def measure(stage: Stage) -> Report:
    events, few = (4_000, 500) if stage.quick else (50_000, 5_000)
    runs = [run(stage, events, few) for _ in range(stage.runs)]
    return Report(
        name="intake",
        title="Hits from topic to topic",
        how=HOW.format(contexts=CONTEXTS, events=events, few=few),
        quick=stage.quick,
        series=[series(runs, name, "events/s") for name in (US, COPY, PASS, SINGLE)],
        targets=[
            target(runs, f"{US} / {PASS}", lambda r: r[US] / r[PASS], "at least", 2.0),
            target(runs, f"{US} / {COPY}", lambda r: r[US] / r[COPY], "at least", 0.10),
            target(runs, f"{US} / {SINGLE}", lambda r: r[US] / r[SINGLE], "at least", 10),
        ],
        about=stage.about(),
    )


def run(stage: Stage, events: int, few: int) -> Run:
    """Events a second of each, one after the other."""
    return {
        COPY: beside(stage, ["benchmarks.beside.aiokafka_copy"], events),
        PASS: beside(stage, faust("benchmarks.beside.faust_pass"), events),
        SINGLE: beside(stage, faust("benchmarks.beside.faust_single"), few),
        US: imagepipe(stage, events),
    }


def faust(module: str) -> list[str]:
    return ["faust", "-A", module, "worker", "-l", "info", "--without-web"]


def imagepipe(stage: Stage, events: int) -> float:
    """Events a second of one worker; raises when anything is missing afterwards."""
    with stage.database() as url, stage.world(url) as world:
        make_known(url, CONTEXTS)
        world.start_worker()
        with of(world) as flow:
            rate = burst(flow, events)
        check(world, events + WARM_UP)
    return rate


def beside(stage: Stage, module: list[str], events: int) -> float:
    """Events a second of another way."""
    with stage.database() as url, stage.world(url) as world:
        make_known(url, CONTEXTS)
        world.start_worker(
            sys.executable,
            "-m",
            *module,
            BESIDE_BOOTSTRAP=stage.kafka_bootstrap,
            BESIDE_DATABASE=url,
            BESIDE_INPUT=world.settings.topic_entity_created,
            BESIDE_OUTPUT=world.settings.topic_image_ready,
            BESIDE_GROUP=f"{world.settings.kafka_group}-beside",
        )
        with of(world) as flow:
            return burst(flow, events)


@contextmanager
def of(world: World) -> Iterator[Traffic]:
    """The traffic of a world's worker."""
    settings = world.settings
    with traffic(
        settings.kafka_bootstrap_servers, settings.topic_entity_created, settings.topic_image_ready
    ) as flow:
        yield flow


def burst(flow: Traffic, events: int) -> float:
    """Warm up, then send everything at once: events a second until the last outcome is there."""
    few = min(WARM_UP, events)
    elapsed(flow, some(0, few))
    return events / elapsed(flow, some(few, events))


def in_turns(flows: Mapping[str, Traffic], events: int, warm_up: int) -> Run:
    """Warm all up, then send bursts to one after the other, so that what disturbs one disturbs the
    others, too: events a second of each."""
    for flow in flows.values():
        elapsed(flow, some(0, warm_up))
    seconds = dict.fromkeys(flows, 0.0)
    for first in range(warm_up, warm_up + events, events // TURNS):
        for name, flow in flows.items():
            seconds[name] += elapsed(flow, some(first, events // TURNS))
    return {name: events / seconds[name] for name in flows}


def elapsed(flow: Traffic, events: Sequence[Event]) -> float:
    """Seconds from the first one sent until the last outcome has been read."""
    started = time.perf_counter()
    flow.send(events)
    flow.read(len(events))
    return time.perf_counter() - started


def some(first: int, number: int) -> list[Event]:
    """Events of so many entities."""
    return [event(data(one, CONTEXTS)) for one in range(first, first + number)]


def check(world: World, events: int) -> None:
    """Every event has left what it should, once."""
    [(requests, uses, links, outcomes)] = world.query("""
        SELECT (SELECT count(*) FROM imagepipe.requests WHERE state = 'ready' AND cached),
               (SELECT sum(usage_count) FROM media_assets),
               (SELECT count(*) FROM imagepipe.entity_images),
               (SELECT count(DISTINCT request_id) FROM imagepipe.outbox)
    """)
    if {requests, uses, links, outcomes} != {events}:
        raise AssertionError(
            f"of {events} events: {requests} requests, {uses} uses, {links} links, {outcomes}"
            " outcomes"
        )
