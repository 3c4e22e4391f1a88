"""The embedded broker and database: real clients use them, and they survive what they should."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kafka import KafkaProducer

from pipeline import topics
from pipeline.rules.replay_range import Range
from pipeline.settings import load
from pipeline.topic_reader import Reader
from sandbox.broker import EmbeddedBroker
from sandbox.database import EmbeddedDatabase, EmbeddedDatabaseError

_OWNER = """
import sys
from pathlib import Path
from sandbox.database import EmbeddedDatabase
import psycopg
database = EmbeddedDatabase(Path(sys.argv[1]))
database.start()
with psycopg.connect(database.url) as connection:
    connection.execute("create table kept as select 7 as number")
print("ready", flush=True)
sys.stdin.read()
"""


async def test_events_come_back_in_order_from_the_embedded_broker() -> None:
    with EmbeddedBroker({"entity-created": 3}) as broker:
        assert broker.bootstrap_servers.startswith("127.0.0.1:")
        producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers, acks="all")
        consumer = AIOKafkaConsumer(
            "entity-created",
            bootstrap_servers=broker.bootstrap_servers,
            auto_offset_reset="earliest",
            group_id="readers",
        )
        await producer.start()
        partitions = await producer.partitions_for("entity-created")
        for number in range(20):
            await producer.send_and_wait("entity-created", b"%d" % number, key=b"listing:1")
        await producer.stop()
        await consumer.start()
        async with asyncio.timeout(30):
            read = [(await consumer.getone()).value for _ in range(20)]
        await consumer.stop()

    assert partitions == {0, 1, 2}
    assert read == [b"%d" % number for number in range(20)]


def test_a_replay_reads_the_embedded_broker_from_its_beginning() -> None:
    with EmbeddedBroker({"entity-created": 3}) as broker:
        settings = load(
            _env_file=None, kafka_bootstrap_servers=broker.bootstrap_servers, embedded_broker=True
        )
        producer = KafkaProducer(**topics.client_options(settings))
        for number in range(20):
            producer.send("entity-created", b"%d" % number, key=b"listing:%d" % number)
        producer.flush()
        producer.close()
        with Reader(settings, "entity-created") as reader:
            positions = reader.positions(Range(), datetime.now(UTC))
            read = [record.value for batch in reader.batches(positions, 7) for record in batch]

    assert sum(position.end for position in positions) == 20
    assert sorted(map(int, filter(None, read))) == list(range(20))


def test_a_broker_is_gone_when_it_is_stopped() -> None:
    broker = EmbeddedBroker()
    broker.start()
    host, port = broker.bootstrap_servers.split(":")
    broker.stop()
    broker.stop()

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


@pytest.mark.parametrize(("topic", "partitions"), [("bad", 0), ("bad", -1), ("a b", 1), ("", 1)])
def test_an_impossible_topic_is_refused(topic: str, partitions: int) -> None:
    with pytest.raises(ValueError, match="no topic can be"):
        EmbeddedBroker({topic: partitions})


def count_kept(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("select number from kept").fetchone()
    assert row is not None
    return int(row[0])


def test_the_data_survives_a_restart_of_the_database(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "data") as database:
        assert database.url.startswith("postgresql://")
        with psycopg.connect(database.url) as connection:
            connection.execute("create table kept as select 7 as number")
        with pytest.raises(EmbeddedDatabaseError, match="another process"):
            EmbeddedDatabase(tmp_path / "data").start()

    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database.url)
    with EmbeddedDatabase(tmp_path / "data") as database:
        assert count_kept(database.url) == 7


def wait_until_dead(number: int) -> None:
    """A killed process may stay as a zombie, which is the database's own affair to see."""
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)


@pytest.mark.parametrize("server_dies_too", [False, True])
def test_the_data_survives_a_killed_owner(tmp_path: Path, server_dies_too: bool) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path / "data")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert owner.stdout is not None
    assert owner.stdin is not None
    assert owner.stdout.readline() == b"ready\n"
    owner.kill()
    owner.wait()
    owner.stdout.close()
    owner.stdin.close()
    if server_dies_too:
        server = int((tmp_path / "data/postgres/postmaster.pid").read_text().split()[0])
        os.kill(server, signal.SIGKILL)
        wait_until_dead(server)

    with EmbeddedDatabase(tmp_path / "data") as database:
        assert count_kept(database.url) == 7

    assert not (tmp_path / "data/postgres/postmaster.pid").exists()


def test_a_number_that_another_program_got_does_not_pass_for_the_server(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "data") as database:
        pid_file = tmp_path / "data/postgres/postmaster.pid"
        lines = pid_file.read_text().splitlines()
    ours = str(os.getpid())
    pid_file.write_text("\n".join([ours, *lines[1:]]))
    (tmp_path / "data/postgres/.s.PGSQL.5432.lock").write_text("\n".join([ours, *lines[1:5]]))

    with EmbeddedDatabase(tmp_path / "data") as database, psycopg.connect(database.url):
        pass


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 20) / ("longer" * 15)

    with EmbeddedDatabase(directory) as database, psycopg.connect(database.url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_directory_that_cannot_be_used_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file is in the way")

    with pytest.raises(EmbeddedDatabaseError, match=str(tmp_path / "data")) as caught:
        EmbeddedDatabase(tmp_path / "data").start()
    assert "\n" not in str(caught.value)
