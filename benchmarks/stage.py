"""Where benchmarks run: a real Apache Kafka, a real PostgreSQL, worlds with a worker in them."""

import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil  # type: ignore[import-untyped]
import psycopg
from psycopg import sql
from sqlalchemy import make_url

from pipeline import migrate
from tests import services
from tests.acceptance.harness import World
from tests.kafka import jars

SETTINGS = ("server_version", "fsync", "synchronous_commit", "shared_buffers")
LIBRARIES = ("aiokafka", "faust-streaming", "sqlalchemy", "psycopg", "pydantic", "fastapi")

WIDE_LIMITS = """
[[limit]]
name = "hour"
window = "1h"
requests = 1_000_000
"""


class NotReal(RuntimeError):
    """There is no real Kafka to measure on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A broker and a server for all benchmarks of a session. `quick`: only to see that it works."""

    kafka_bootstrap: str
    postgres_url: str
    directory: Path
    runs: int
    quick: bool

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """URL of a new, migrated database, gone afterwards: a copy of the one at the URL `template`
        if there is one, to which nobody may be connected."""
        name = f"bench_{uuid4().hex}"
        create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            copied = sql.Identifier(make_url(template).database or "")
            create += sql.SQL(" TEMPLATE {} STRATEGY file_copy").format(copied)
        _execute(self.postgres_url, create)
        url = make_url(self.postgres_url).set(database=name).render_as_string(hide_password=False)
        try:
            if template is None:
                migrate.upgrade(url)
            yield url
        finally:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            _execute(self.postgres_url, drop)

    @contextmanager
    def world(self, database_url: str, *, latency: float = 0.0) -> Iterator[World]:
        """Topics of its own and a sandbox, on a database; nothing runs in it yet."""
        with (
            redirect_stdout(StringIO()),  # it ends with the logs, which only tests want
            tempfile.TemporaryDirectory(prefix="world-", dir=self.directory) as directory,
            World(
                Path(directory),
                database_url=database_url,
                kafka_bootstrap=self.kafka_bootstrap,
                prefix=f"bench-{uuid4().hex[:8]}-",
                latency=latency,
            ) as world,
        ):
            del world.environment["IMAGEPIPE_POLL_INTERVAL"]  # the default, not a test's haste
            world.environment["IMAGEPIPE_LOG_FORMAT"] = "json"
            yield world

    def about(self) -> dict[str, Any]:
        """What the figures depend on besides the code."""
        given = services.kafka().name.startswith("KAFKA_BOOTSTRAP_SERVERS")
        kafka = "of KAFKA_BOOTSTRAP_SERVERS" if given else services.KAFKA_IMAGE.partition(":")[2]
        return machine() | _server_settings(self.postgres_url) | {"kafka": kafka}


@contextmanager
def stage(*, runs: int, quick: bool) -> Iterator[Stage]:
    """Start what is not there yet; raises `NotReal` where there is no real Kafka."""
    jars_missing = ""
    if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        try:
            jars.fetch()
        except jars.JarsUnavailable as missing:
            jars_missing = str(missing)
    kafka = services.kafka()
    if kafka.name.startswith("embedded"):
        raise NotReal(f"benchmarks need a real Apache Kafka: {jars_missing}")
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="imagepipe-benchmark-"))
        )
        bootstrap = stack.enter_context(kafka.run(directory / "kafka"))
        postgres = stack.enter_context(services.postgres().run(directory / "postgres"))
        yield Stage(bootstrap, postgres, directory, runs, quick)


def machine() -> dict[str, Any]:
    """The machine, its load, and the versions of what counts."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "measured_on": datetime.now(UTC).date().isoformat(),
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    } | {name: version(name) for name in LIBRARIES}


def _server_settings(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        return {
            name.replace("server_version", "postgresql"): connection.execute(
                "SELECT current_setting(%s)", [name]
            ).fetchone()[0]  # type: ignore[index]
            for name in SETTINGS
        }


def _execute(url: str, statement: sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
