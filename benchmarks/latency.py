"""One event at a time through an idle worker: how long its picture takes to be announced."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.intake import CONTEXTS, check, of, some
from benchmarks.known import make_known
from benchmarks.results import Report, Run, Series, percentile, series, target
from benchmarks.stage import Stage
from benchmarks.traffic import Event, Traffic, echo

WARM_UP = 50
PERCENTS = (50, 99)
HOW = (
    "One event at a time for a picture that exists, to a worker that has nothing else to do. The"
    " clock runs from just before the event is handed to the producer until its `image-ready` has"
    " been read. In turns with it the same record goes through a topic that nobody else reads or"
    " writes, from the same producer to the same consumer: a round trip. {number:,} of each in"
    " every run, after {warm_up} of each that are not counted; topics have four partitions,"
    " acks=all. Afterwards the tables are counted: one durable request, use, link and outcome an"
    " event."
)
US, BARE = "imagepipe", "round trip"


@dataclass(frozen=True, slots=True)
class Times:
    """How long each took, in milliseconds, in the order in which they were measured."""

    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    @property
    def figures(self) -> Run:
        """The percentiles of both, by their names in the report."""
        return {
            f"{name} p{percent}": percentile(samples, percent)
            for name, samples in ((US, self.ours), (BARE, self.bare))
            for percent in PERCENTS
        }


def measure(stage: Stage) -> Report:
    number = 60 if stage.quick else 500
    times = [run(stage, number) for _ in range(stage.runs)]
    runs = [one.figures for one in times]
    return Report(
        name="latency",
        title="One hit through an idle worker",
        how=HOW.format(number=number, warm_up=WARM_UP),
        quick=stage.quick,
        series=percentiles(runs),
        targets=[
            target(
                runs,
                f"{US} / {BARE}, p{percent}",
                lambda r, p=percent: r[f"{US} p{p}"] / r[f"{BARE} p{p}"],  # type: ignore[misc]
                "at most",
                bound,
            )
            for percent, bound in zip(PERCENTS, (5, 10), strict=True)
        ],
        about=stage.about(),
        samples=samples(times),
    )


def run(stage: Stage, number: int) -> Times:
    """Hits and round trips; raises when anything is missing afterwards."""
    with stage.database() as url, stage.world(url) as world:
        make_known(url, CONTEXTS)
        world.start_worker()
        with of(world) as flow, echo(stage.kafka_bootstrap) as bare:
            in_turns(flow.exchange, bare, some(0, WARM_UP))
            times = in_turns(flow.exchange, bare, some(WARM_UP, number))
        check(world, WARM_UP + number)
    return times


def in_turns(ours: Callable[[Event], float], bare: Traffic, records: Iterable[Event]) -> Times:
    """Each record goes our way, then through the bare topic; `ours` gives seconds."""
    times = Times()
    for record in records:
        times.ours.append(1_000 * ours(record))
        times.bare.append(1_000 * bare.exchange(record))
    return times


def percentiles(runs: Sequence[Run]) -> list[Series]:
    """What `Times.figures` names."""
    return [series(runs, name, "ms") for name in runs[0]]


def samples(times: Sequence[Times]) -> dict[str, list[float]]:
    """Every single time of all runs."""
    return {
        US: [round(one, 3) for run in times for one in run.ours],
        BARE: [round(one, 3) for run in times for one in run.bare],
    }
