"""A broker or a database that goes away under a running worker and comes back."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import migrate
from sandbox.database import EmbeddedDatabase
from tests.acceptance.harness import World, entity
from tests.kafka import jars
from tests.kafka.server import KafkaServer


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaServer]:
    try:
        libs = jars.fetch()
    except jars.JarsUnavailable as missing:
        pytest.skip(str(missing))
    with KafkaServer(tmp_path / "kafka", libs) as server:
        yield server


@pytest.fixture
def own_database() -> Iterator[EmbeddedDatabase]:
    with tempfile.TemporaryDirectory(prefix="imagepipe-outage-") as directory:
        database = EmbeddedDatabase(Path(directory))
        with database:
            migrate.upgrade(database.url)
            yield database


def test_a_worker_outlives_a_killed_broker(
    tmp_path: Path, database_url: str, topic_prefix: str, own_kafka: KafkaServer
) -> None:
    with World(
        tmp_path,
        database_url=database_url,
        kafka_bootstrap=own_kafka.bootstrap_servers,
        prefix=topic_prefix,
        latency=2.0,
    ) as world:
        worker = world.start_worker()
        world.publish([entity(1, "Önce")])
        world.wait_until(lambda: world.sandbox.requests("openai") == 1, "a call")

        own_kafka.kill()
        world.wait_until(lambda: len(world.sandbox.uploads) == 1, "the picture in hand")
        own_kafka.start()
        world.publish([entity(2, "Sonra")])

        outcomes = world.outcomes(ready=2)
        assert [ready.key for ready in sorted(outcomes.bought, key=lambda one: str(one.key))] == [
            "listing:1",
            "listing:2",
        ]
        assert worker.is_running
        # aiokafka alone says so 30 times a second.
        assert worker.log.count("level=error") < 20
        assert "Traceback" not in worker.log
        assert worker.stop() == 0


def test_a_worker_outlives_a_stopped_database(
    tmp_path: Path, own_database: EmbeddedDatabase, kafka_bootstrap: str, topic_prefix: str
) -> None:
    with World(
        tmp_path,
        database_url=own_database.url,
        kafka_bootstrap=kafka_bootstrap,
        prefix=topic_prefix,
        latency=2.0,
    ) as world:
        worker = world.start_worker()
        world.publish([entity(1, "Önce")])
        world.wait_until(lambda: world.sandbox.requests("openai") == 1, "a call")

        own_database.stop()
        world.wait_until(lambda: len(world.sandbox.purchases) == 1, "the answer of that call")
        world.publish([entity(2, "Sonra")])
        worker.wait_for_log("database is away, trying again")
        own_database.start()

        outcomes = world.outcomes(ready=2)
        assert {ready.key for ready in outcomes.bought} == {"listing:1", "listing:2"}
        assert len(world.sandbox.purchases) == 2
        assert worker.is_running
        assert "Traceback" not in worker.log
        assert worker.log.count("outcomes wait in the outbox") == 1
        assert worker.stop() == 0
