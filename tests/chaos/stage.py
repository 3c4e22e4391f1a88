"""The stage: a broker, a database and a sandbox of its own, and worker processes on them."""

import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil  # type: ignore[import-untyped]
import psycopg
from psycopg.rows import DictRow, dict_row

from pipeline import migrate, topics
from pipeline.settings import Settings, load
from sandbox.database import EmbeddedDatabase
from sandbox.server import Sandbox
from tests.acceptance.harness import bare_environment, imagepipe
from tests.chaos.history import HISTORY
from tests.chaos.worker import Worker
from tests.kafka import jars
from tests.kafka.server import KafkaServer

CALL_TIMEOUT = 5.0  # seconds
CALL_MARGIN = 5.0  # seconds
LATENCY = 0.7  # seconds per picture
LEASE = CALL_TIMEOUT + CALL_MARGIN
"""Seconds after which a worker of which nothing is heard is given up."""

LIMITS = """
[[limit]]
name = "burst"
window = "10s"
requests = 10

[[limit]]
name = "minute"
window = "1m"
usd = 0.75

[[limit]]
name = "live"
scope = "source:live"
window = "30s"
requests = 24
usd = 0.40

[[limit]]
name = "listings"
scope = "type:listing"
window = "15s"
requests = 4

[[limit]]
name = "heroes"
scope = "type:hero"
window = "20s"
usd = 0.12
"""

STOPS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
"""How PostgreSQL is told to go: rolling everything back, or without a word."""


class Stage:
    """Everything the workers work on, from entering the `with` block to leaving it.

    `directory` gets the logs, Kafka's data and the pictures.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kafka = KafkaServer(directory / "kafka", jars.fetch())
        self.sandbox = Sandbox(directory / "pictures", latency=LATENCY)
        self.workers: list[Worker] = []
        self.settings: Settings
        self._environment: dict[str, str] = {}
        self._database: EmbeddedDatabase
        self._data: Path
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.kafka)
            stack.enter_context(self.sandbox)
            # As root, PostgreSQL runs under a user of its own, who cannot enter `directory`.
            temporary = tempfile.TemporaryDirectory(prefix="imagepipe-chaos-")
            self._data = Path(stack.enter_context(temporary))
            self._database = EmbeddedDatabase(self._data)
            stack.enter_context(self._database)
            stack.callback(self._end_workers)
            self._configure()
            migrate.upgrade(self._database.url)
            with psycopg.connect(self._database.url) as connection:
                connection.execute(HISTORY)
            topics.ensure(self.settings)
            self._apply_limits()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start_worker(self, fault: str | None = None) -> Worker:
        """A worker, armed with a fault point if one is given."""
        variables = self._environment | ({"IMAGEPIPE_FAULT": fault} if fault else {})
        number = len(self.workers) + 1
        worker = Worker(number, bare_environment(**variables), self.directory)
        self.workers.append(worker)
        return worker

    def restart_kafka(self, *, kill: bool, seconds: float) -> None:
        """Take the broker away, by SIGKILL or in good order, and bring it back."""
        if kill:
            self.kafka.kill()
        else:
            self.kafka.stop()
        time.sleep(seconds)
        self.kafka.start()

    def restart_database(self, mode: str, seconds: float) -> None:
        """Take PostgreSQL away in one of `STOPS`, and bring it back on the same data and socket."""
        lines = (self._data / "postgres" / "postmaster.pid").read_text().splitlines()
        process = psutil.Process(int(lines[0]))
        process.send_signal(STOPS[mode])
        process.wait()
        self._database.stop()
        time.sleep(seconds)
        self._database.start()

    def cut_connections(self) -> None:
        """End every session of the workers, in the middle of whatever they are at."""
        self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'imagepipe'"
        )

    def query(self, statement: str) -> list[DictRow]:
        """Rows of the database; raises `psycopg.OperationalError` while it is away."""
        with psycopg.connect(self._database.url, row_factory=dict_row) as connection:
            return connection.execute(statement).fetchall()

    def _configure(self) -> None:
        values: dict[str, Any] = {
            "database_url": self._database.url,
            "kafka_bootstrap_servers": self.kafka.bootstrap_servers,
            "openai_api_key": "sandbox",
            "openai_base_url": self.sandbox.openai_base_url,
            "cloudinary_url": self.sandbox.cloudinary_url,
            "kafka_session_timeout": 6,
            "call_timeout": CALL_TIMEOUT,
            "upload_timeout": CALL_TIMEOUT,
            "call_margin": CALL_MARGIN,
            "poll_interval": 0.3,
            "concurrency": 3,
            "batch_size": 20,
        }
        self.settings = load(_env_file=None, **values)
        self._environment = {f"IMAGEPIPE_{key.upper()}": str(one) for key, one in values.items()}

    def _apply_limits(self) -> None:
        subprocess.run(
            imagepipe("limits", "apply", "-"),
            env=bare_environment(**self._environment),
            cwd=self.directory,
            input=LIMITS,
            stdout=subprocess.DEVNULL,
            text=True,
            check=True,
        )

    def _end_workers(self) -> None:
        for worker in self.workers:
            if worker.exit_code is None:
                worker.send(signal.SIGKILL)
                worker.wait(60)
