"""A worker that is killed or asked to leave while pictures are in its hands."""

from sandbox.faults import Fault
from tests.acceptance.conftest import NewWorld
from tests.acceptance.harness import World, entity

SHORT_CALLS = {
    "IMAGEPIPE_CALL_TIMEOUT": "4",
    "IMAGEPIPE_UPLOAD_TIMEOUT": "4",
    "IMAGEPIPE_CALL_MARGIN": "5",
}
TAKEN_OVER = 90.0  # seconds: a dead worker's calls and uploads are given up 30 s after their time


def test_a_killed_worker_loses_nothing_and_buys_no_received_picture_again(world: World) -> None:
    received = [entity(n, f"Alınan {n}") for n in range(3)]
    on_its_way = [entity(n, f"Yolda {n}") for n in range(3, 6)]
    world.sandbox.faults.add(Fault("openai", "timeout", times=3, prompt_contains="Yolda"))
    world.sandbox.faults.add(Fault("cloudinary", "timeout", times=3))
    worker = world.start_worker(**SHORT_CALLS)
    worker.wait_for_log("Ready")

    world.publish(received + on_its_way)
    world.wait_until(
        lambda: world.sandbox.requests("openai") == 6 and world.sandbox.requests("cloudinary") == 3,
        "three calls and three uploads at once",
    )
    worker.kill()
    world.start_worker(**SHORT_CALLS)

    outcomes = world.outcomes(ready=6, within=TAKEN_OVER)
    assert sorted(str(ready.key) for ready in outcomes.bought) == [f"listing:{n}" for n in range(6)]
    assert outcomes.failed == []
    bought = [purchase.prompt for purchase in world.sandbox.purchases]
    assert len(bought) == len(set(bought)) == 6
    # The calls that the killed worker had sent may have been billed: that money stays held.
    assert world.query(
        "SELECT state, count(*) FROM imagepipe.reservations GROUP BY state ORDER BY state"
    ) == [("settled", 6), ("unknown", 3)]
    assert world.query("SELECT count(*) FROM imagepipe.image_spool") == [(0,)]


def test_a_worker_that_is_asked_to_leave_finishes_what_it_has_in_hand(new_world: NewWorld) -> None:
    world = new_world(latency=2.0)
    worker = world.start_worker()
    world.publish([entity(n, f"Elde {n}") for n in range(3)])
    world.wait_until(lambda: world.sandbox.requests("openai") == 3, "three calls")
    assert world.sandbox.purchases == []

    assert worker.stop() == 0

    assert len(world.sandbox.purchases) == 3
    assert world.query("SELECT count(*) FROM imagepipe.outbox WHERE published_at IS NULL") == [(0,)]
    assert len(world.outcomes(ready=3).bought) == 3


def test_a_new_worker_goes_on_before_kafka_gives_it_the_dead_ones_partitions(world: World) -> None:
    session = {"IMAGEPIPE_KAFKA_SESSION_TIMEOUT": "60"}
    worker = world.start_worker(IMAGEPIPE_FAULT="claim.before_commit", **session)
    world.publish([entity(1, "Bekleyen")])
    world.wait_until(lambda: not worker.is_running, "the worker's death before it claims")

    world.start_worker(**session)
    assert len(world.outcomes(ready=1, within=30).bought) == 1
