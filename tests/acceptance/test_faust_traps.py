"""Faust's traps, on real parts: an event is acknowledged when it is recorded, and never before."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg

from pipeline import health, migrate
from sandbox.database import EmbeddedDatabase
from tests.acceptance.harness import Outcomes, World, entity

HOLD_INTAKE = "LOCK TABLE imagepipe.requests IN SHARE MODE"  # keeps writers out, not readers
INTAKE_WAITS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
      AND query LIKE '%WITH asked AS MATERIALIZED%'  -- of a long query only the beginning is kept
"""


@contextmanager
def intake_held(database_url: str) -> Iterator[None]:
    """Whoever writes into `requests` waits inside its transaction until the end of the block."""
    with psycopg.connect(database_url) as holder:
        holder.execute(HOLD_INTAKE)
        yield


def wait_until_in_a_batch(world: World) -> None:
    world.wait_until(lambda: world.query(INTAKE_WAITS) == [(1,)], "a worker inside a batch")


def waiting(world: World) -> int:
    """How many records the group has not acknowledged."""
    return sum(position.lag for position in health.positions(world.settings).values())


def assert_one_picture_each(world: World, outcomes: Outcomes, entities: Sequence[int]) -> None:
    """Every entity has one outcome, which may have been published twice, and cost one call."""
    ids = {(ready.key, ready.id) for ready in outcomes.ready}
    assert Counter(key for key, _ in ids) == {f"listing:{number}": 1 for number in entities}
    assert (outcomes.failed, outcomes.dead_letters) == ([], [])
    assert len(world.sandbox.purchases) == len(entities)


def test_an_error_nobody_expected_acknowledges_nothing(world: World) -> None:
    worker = world.start_worker()
    execute(world, "ALTER TABLE imagepipe.requests RENAME TO requests_of_another_release")
    world.publish([entity(1, "Bir"), entity(2, "İki")])
    worker.wait_for_log("a batch cannot be recorded, trying again")
    assert waiting(world) == 2

    execute(world, "ALTER TABLE imagepipe.requests_of_another_release RENAME TO requests")

    assert_one_picture_each(world, world.outcomes(ready=2), [1, 2])
    world.wait_until(lambda: waiting(world) == 0, "the acknowledgement")


def test_poison_is_put_aside_and_the_worker_goes_on(world: World) -> None:
    execute(world, "ALTER TABLE imagepipe.requests ADD CHECK (alt <> 'Lanetli')")
    world.start_worker()
    texts = [json.dumps(entity(n, t)).encode() for n, t in enumerate(["Bir", "Lanetli", "İki"])]
    values = [b"\xff\xfe\x00", texts[0], b'{"type": ', texts[1], None, texts[2]]
    world.produce((b"one partition", value, []) for value in values)

    outcomes = world.outcomes(ready=2, dead_letters=4)
    assert {ready.key for ready in outcomes.ready} == {"listing:0", "listing:2"}
    assert {dead.value for dead in outcomes.dead_letters} == set(values) - {texts[0], texts[2]}

    world.produce([(b"one partition", json.dumps(entity(3, "Sonra")).encode(), [])])
    assert "listing:3" in {ready.key for ready in world.outcomes(ready=3).ready}


def test_a_database_that_stops_in_mid_batch_costs_no_event(
    tmp_path: Path, kafka_bootstrap: str, topic_prefix: str
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="imagepipe-mid-batch-") as directory,
        EmbeddedDatabase(Path(directory)) as database,
    ):
        migrate.upgrade(database.url)
        with World(
            tmp_path,
            database_url=database.url,
            kafka_bootstrap=kafka_bootstrap,
            prefix=topic_prefix,
        ) as world:
            worker = world.start_worker()
            holder = psycopg.connect(database.url)
            holder.execute(HOLD_INTAKE)
            world.publish([entity(1, "Bir"), entity(2, "İki")])
            wait_until_in_a_batch(world)
            database.stop()
            holder.close()
            worker.wait_for_log("database is away, trying again")
            assert waiting(world) == 2
            database.start()

            assert_one_picture_each(world, world.outcomes(ready=2), [1, 2])
            assert worker.is_running


def test_a_rebalance_in_mid_batch_records_each_event_once(world: World, database_url: str) -> None:
    first = world.start_worker()
    with intake_held(database_url):
        world.publish([entity(number, f"Eski {number}") for number in range(4)])
        wait_until_in_a_batch(world)
        second = world.start_worker()
        first.wait_for_log("wait_empty: Waiting for tasks")  # asked to give its partitions up
        world.publish([entity(number, f"Yeni {number}") for number in range(4, 8)])

    assert_one_picture_each(world, world.outcomes(ready=8), range(8))
    second.wait_for_log("Ready")
    world.wait_until(lambda: waiting(world) == 0, "the acknowledgement")


def test_sigterm_in_mid_batch_lets_the_batch_be_recorded(world: World, database_url: str) -> None:
    worker = world.start_worker()
    with ThreadPoolExecutor(1) as aside:
        with intake_held(database_url):
            world.publish([entity(1, "Bir"), entity(2, "İki")])
            wait_until_in_a_batch(world)
            exit_code = aside.submit(worker.stop)
            worker.wait_for_log("Stopping")
        assert exit_code.result() == 0

    assert waiting(world) == 0
    world.start_worker()  # the first may have left before it could claim what it recorded
    assert_one_picture_each(world, world.outcomes(ready=2), [1, 2])


def execute(world: World, statement: str) -> None:
    """Change the database as an operator would."""
    with psycopg.connect(world.settings.database_url) as connection:
        connection.execute(statement)
