"""The test services keep what they promise: a broker that survives a kill, fresh databases."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kafka import KafkaAdminClient

from tests.kafka import jars
from tests.kafka.server import KafkaServer

VALUES = [b"first", b"second", b"third"]


@pytest.fixture
def kafka_server(tmp_path: Path) -> Iterator[KafkaServer]:
    try:
        libs = jars.fetch()
    except jars.JarsUnavailable as missing:
        pytest.skip(str(missing))
    with KafkaServer(tmp_path, libs) as server:
        yield server


async def test_a_killed_broker_comes_back_with_its_records_and_offsets(
    kafka_server: KafkaServer,
) -> None:
    address = kafka_server.bootstrap_servers
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics({"events": {"num_partitions": 1, "replication_factor": 1}})
    admin.close()
    await _produce(address, VALUES)
    assert await _consume(address, count=1) == VALUES[:1]

    kafka_server.kill()
    kafka_server.start()

    assert kafka_server.bootstrap_servers == address
    assert await _consume(address, count=2) == VALUES[1:]


def test_a_test_database_is_migrated_and_an_empty_one_is_not(
    database_url: str, empty_database_url: str
) -> None:
    assert _has_our_schema(database_url)
    assert not _has_our_schema(empty_database_url)


async def _produce(address: str, values: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=address, acks="all") as producer:
        for value in values:
            await producer.send_and_wait("events", value)


async def _consume(address: str, *, count: int) -> list[bytes]:
    """The group's next `count` values, one committed at a time."""
    values = []
    async with AIOKafkaConsumer(
        "events",
        bootstrap_servers=address,
        group_id="readers",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=1,
    ) as consumer:
        for _ in range(count):
            record = await consumer.getone()
            await consumer.commit()
            values.append(record.value)
    return values


def _has_our_schema(url: str) -> bool:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT to_regnamespace('imagepipe') IS NOT NULL").fetchone()
    return found == (True,)
