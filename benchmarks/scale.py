"""The hit path of one worker and of two, which share the partitions of one topic."""

import os

from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from benchmarks.intake import CONTEXTS, WARM_UP, burst, check, of
from benchmarks.known import make_known
from benchmarks.results import Report, Run, series, target
from benchmarks.stage import Stage
from benchmarks.traffic import PARTITIONS
from tests.acceptance.harness import World

HOW = (
    "Events for {contexts:,} known contexts are sent at once to workers that are warm and idle, as"
    " in the benchmark of the hit path: {events:,} to one worker, and {events:,} to two which have"
    " two of the topic's four partitions each. This machine had {cores} cores, and the workers share"
    " them with the broker, the database and the load generator: a second worker can only use what"
    " these leave. Afterwards the tables are counted, and each worker still has its share of the"
    " partitions."
)
ONE, TWO = "imagepipe, 1 worker", "imagepipe, 2 workers"


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
    return {ONE: workers(stage, 1, events), TWO: workers(stage, 2, events)}


def workers(stage: Stage, number: int, events: int) -> float:
    """Events a second of so many workers together."""
    share = [PARTITIONS // number] * number
    admin = AdminClient({"bootstrap.servers": stage.kafka_bootstrap})
    with stage.database() as url, stage.world(url) as world:
        make_known(url, CONTEXTS)
        for _ in range(number):
            world.start_worker()
        group = world.settings.kafka_group
        with of(world) as flow:
            world.wait_until(lambda: shares(admin, group) == share, "partitions for every worker")
            rate = burst(flow, events)
        if (now := shares(admin, group)) != share:
            raise AssertionError(f"the partitions are spread {now} and not {share}")
        check(world, events + WARM_UP)
    return rate


def shares(admin: AdminClient, group: str) -> list[int]:
    """How many partitions each worker has; nothing while they are being shared out."""
    [asked] = admin.describe_consumer_groups([group]).values()
    described = asked.result()
    if described.state != ConsumerGroupState.STABLE:
        return []
    return [len(member.assignment.topic_partitions) for member in described.members]
