"""The hit path of one worker and of two, which share the partitions of one topic."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from benchmarks.intake import CONTEXTS, WARM_UP, check, in_turns, of
from benchmarks.known import make_known
from benchmarks.results import Report, Run, series, target
from benchmarks.stage import Stage
from benchmarks.traffic import PARTITIONS, Traffic

HOW = (
    "Events for {contexts:,} known contexts are sent to workers that are warm and idle, as in the"
    " benchmark of the hit path: {events:,} to one worker, and {events:,} to two which have two of"
    " their topic's four partitions each. Both take turns, with a quarter of the events at once;"
    " the clock runs from the first one sent until the last outcome has been read. This machine had"
    " {cores} cores, and the workers share them with the broker, the database and the load"
    " generator: a second worker can only use what these leave. Afterwards the tables are counted,"
    " and each worker still has its share of the partitions."
)
ONE, TWO = "imagepipe, 1 worker", "imagepipe, 2 workers"


NOT_YET = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)
"""What a broker says of a group while it is taking over its coordination."""


def measure(stage: Stage) -> Report:
    events = 4_000 if stage.quick else 30_000
    runs = [run(stage, events) for _ in range(stage.runs)]
    return Report(
        name="scale",
        title="Two workers instead of one",
        how=HOW.format(contexts=CONTEXTS, events=events, cores=os.cpu_count()),
        quick=stage.quick,
        series=[series(runs, name, "events/s") for name in (ONE, TWO)],
        targets=[target(runs, f"{TWO} / {ONE}", lambda r: r[TWO] / r[ONE], "at least", 1.6)],
        about=stage.about(),
    )


def run(stage: Stage, events: int) -> Run:
    """Events a second of one worker and of two together."""
    with workers(stage, 1, events) as one, workers(stage, 2, events) as two:
        return in_turns({ONE: one, TWO: two}, events, WARM_UP)


@contextmanager
def workers(stage: Stage, number: int, events: int) -> Iterator[Traffic]:
    """Traffic of so many workers, each with its share of the partitions until the end."""
    share = [PARTITIONS // number] * number
    admin = AdminClient({"bootstrap.servers": stage.kafka_bootstrap})
    with stage.database() as url, stage.world(url) as world:
        make_known(url, CONTEXTS)
        for _ in range(number):
            world.start_worker()
        group = world.settings.kafka_group
        with of(world) as flow:
            world.wait_until(lambda: shares(admin, group) == share, "partitions for every worker")
            yield flow
        if (now := shares(admin, group)) != share:
            raise AssertionError(f"the partitions are spread {now} and not {share}")
        check(world, WARM_UP + events)


def shares(admin: AdminClient, group: str) -> list[int]:
    """How many partitions each worker has; nothing while they are being shared out."""
    [asked] = admin.describe_consumer_groups([group]).values()
    try:
        described = asked.result()
    except KafkaException as error:
        if error.args[0].code() not in NOT_YET:
            raise
        return []
    if described.state != ConsumerGroupState.STABLE:
        return []
    return [len(member.assignment.topic_partitions) for member in described.members]
