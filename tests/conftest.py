"""Fixtures: a broker and a server for the session, a fresh database and topic names per test."""

import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from tests import services

# A shell's background job ignores Ctrl-C, and so would every command that a test starts there.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    """Say which services were chosen; without a real Kafka, CI ends here."""
    try:
        kafka = services.kafka()
    except services.NoRealKafka as error:
        raise pytest.UsageError(str(error)) from error
    return [f"kafka: {kafka.name}", f"postgres: {services.postgres().name}"]


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of the session's Kafka."""
    with services.kafka().run(tmp_path_factory.mktemp("kafka")) as address:
        yield address


@pytest.fixture
def topic_prefix() -> str:
    """What the topics and groups of one test begin with, since all tests share one broker."""
    return f"test-{uuid.uuid4().hex[:12]}-"


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`postgresql://` URL of the session's server, of a database that no test writes to."""
    with services.postgres().run(tmp_path_factory.mktemp("postgres")) as address:
        yield address


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str) -> Iterator[str]:
    """Name of a database with all migrations applied, made once and only ever cloned."""
    from pipeline import migrate

    with _new_database(postgres_url) as url:
        migrate.upgrade(url)
        name = make_url(url).database
        assert name is not None
        yield name


@pytest.fixture
def database_url(postgres_url: str, migrated_template: str) -> Iterator[str]:
    """URL of a migrated database that belongs to one test."""
    with _new_database(postgres_url, template=migrated_template) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """URL of an empty database that belongs to one test."""
    with _new_database(postgres_url) as url:
        yield url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """The pipeline's engine on the test's migrated database."""
    from pipeline.database import create_engine

    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@contextmanager
def _new_database(server_url: str, *, template: str = "template0") -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    database = sql.Identifier(name)
    _execute(
        server_url,
        sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(database, sql.Identifier(template)),
    )
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(server_url, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


def _execute(server_url: str, statement: sql.Composed) -> None:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(statement)
