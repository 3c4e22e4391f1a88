"""One picture at a time is bought: what imagepipe adds to the provider's and the host's time."""

from collections.abc import Callable

from benchmarks.intake import of
from benchmarks.known import data
from benchmarks.latency import BARE, US, Times, in_turns, percentiles, samples
from benchmarks.results import Report, target
from benchmarks.stage import WIDE_LIMITS, Stage
from benchmarks.traffic import Event, Traffic, echo, event
from sandbox.server import Sandbox
from tests.acceptance.harness import World

WARM_UP = 10
HOW = (
    "One event at a time for a picture that nobody has asked for yet, to a worker that has nothing"
    " else to do, with limits far above. The clock runs from just before the event is handed to"
    " the producer until its `image-ready` has been read; taken off is the time that the sandbox"
    " spent on the two requests, the picture's and the upload's, each from its arrival until its"
    " answer was ready to be sent. What remains is imagepipe's own: recording, reserving, calling,"
    " keeping the bytes, uploading, settling and announcing them, and both transfers. In turns"
    " with it the same record goes through a topic that nobody else reads or writes: a round trip."
    " {number:,} of each in every run, after {warm_up} of each that are not counted. Afterwards"
    " every outcome has been bought, by one request for each picture, and uploaded once."
)


def measure(stage: Stage) -> Report:
    number = 15 if stage.quick else 100
    times = [run(stage, number) for _ in range(stage.runs)]
    runs = [one.figures for one in times]
    return Report(
        name="purchase",
        title="One purchase, without the provider's and the host's time",
        how=HOW.format(number=number, warm_up=WARM_UP),
        quick=stage.quick,
        series=percentiles(runs),
        targets=[
            target(
                runs,
                f"{US} / {BARE}, p50",
                lambda r: r[f"{US} p50"] / r[f"{BARE} p50"],
                "at most",
                10,
            )
        ],
        about=stage.about(),
        samples=samples(times),
    )


def run(stage: Stage, number: int) -> Times:
    """Purchases and round trips; raises when a picture was not bought, or bought twice."""
    everything = WARM_UP + number
    orders = [event(data(one, everything)) for one in range(everything)]
    with stage.database() as url, stage.world(url) as world:
        lifted = world.run("limits", "apply", "-", stdin=WIDE_LIMITS)
        if lifted.returncode:
            raise RuntimeError(lifted.stderr)
        world.start_worker()
        with of(world) as flow, echo(stage.kafka_bootstrap) as bare:
            buy = buying(flow, world.sandbox)
            in_turns(buy, bare, orders[:WARM_UP])
            times = in_turns(buy, bare, orders[WARM_UP:])
        check(world, everything)
    return times


def buying(flow: Traffic, sandbox: Sandbox) -> Callable[[Event], float]:
    """Seconds of one order without those that the sandbox itself took for it."""

    def buy(order: Event) -> float:
        before = served(sandbox)
        seconds = flow.exchange(order)
        return seconds - (served(sandbox) - before)

    return buy


def served(sandbox: Sandbox) -> float:
    """Seconds that the sandbox has spent on answers so far: complete while nobody waits for one."""
    return sandbox.seconds("openai") + sandbox.seconds("cloudinary")


def check(world: World, orders: int) -> None:
    """Every order was bought, each by one request, uploaded by one, and announced as bought."""
    [(bought, attempts, announced)] = world.query("""
        SELECT (SELECT count(*) FROM imagepipe.requests WHERE state = 'ready' AND NOT cached),
               (SELECT count(*) FROM imagepipe.attempts WHERE state = 'bought'),
               (SELECT count(*) FROM imagepipe.outbox
                WHERE convert_from(value, 'UTF8')::jsonb @> '{"cached": false}')
    """)
    requests = (world.sandbox.requests("openai"), world.sandbox.requests("cloudinary"))
    sold = len(world.sandbox.purchases)
    if {bought, attempts, announced, sold, *requests} != {orders}:
        raise AssertionError(
            f"of {orders} orders: {bought} bought by {attempts} attempts, {announced} announced so,"
            f" {sold} sold, {requests} requests to the model and the host"
        )
