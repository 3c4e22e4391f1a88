"""A world for one acceptance test: its database, topics and sandbox, and the real commands in it.

Nothing here reaches into the product: commands are processes, outcomes are read from Kafka.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from kafka import KafkaProducer

from pipeline import topics
from pipeline.settings import Settings, load
from sandbox.server import Sandbox
from tests import services

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds until something that must happen has happened
ASK_AGAIN = 0.05  # seconds

UNLIMITED = """
[[limit]]
name = "hour"
window = "1h"
requests = 1000
"""

Headers = Sequence[tuple[str, bytes]]


def bare_environment(**variables: str) -> dict[str, str]:
    """What a new user's shell has, and these variables; nothing of the developer's own."""
    shell = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return shell | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | variables


def imagepipe(*arguments: str) -> list[str]:
    """The command line of `imagepipe ARGUMENTS`."""
    return [sys.executable, "-m", "pipeline.cli", *arguments]


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as `condition` holds; fails with `what` when it does not in time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(ASK_AGAIN)


def entity(number: int, title: str, **changes: Any) -> dict[str, Any]:
    """A listing; other titles are other pictures, other numbers are other entities."""
    upload = {"entityType": "listing", "entityId": str(number)}
    return {"type": "listing", "context": {"title": title}, "upload": upload} | changes


def json_lines(rows: Iterable[Any]) -> str:
    """What `imagepipe publish` reads."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class Running:
    """A command that was started, with its log in a file."""

    def __init__(
        self, command: list[str], environment: dict[str, str], directory: Path, log: Path
    ) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything it has said so far."""
        return self._log.read_text("utf-8", "replace")

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def has_failed(self) -> bool:
        """Whether it ended by itself, and not well."""
        return self._process.poll() not in (None, 0, -signal.SIGKILL)

    def wait_for_log(self, text: str) -> None:
        """Return once `text` stands in the log; fails when the process ends before."""
        wait_until(lambda: text in self.log or not self.is_running, f"{text!r} in the log")
        assert text in self.log

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self._process.kill()
        self._process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and return its exit code; fails with its log when it does not in time."""
        self._process.send_signal(number)
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not stop; its log:\n{self.log[-8000:]}") from None


@dataclass(frozen=True, slots=True)
class Published:
    """A record of an outcome topic."""

    key: str | None
    value: bytes | None
    headers: dict[str, bytes]

    @property
    def data(self) -> dict[str, Any]:
        assert self.value is not None
        data: dict[str, Any] = json.loads(self.value)
        return data

    @property
    def id(self) -> str:
        return self.headers["ce_id"].decode()


@dataclass(slots=True)
class Outcomes:
    """What has been published so far, in the order of each topic's partitions."""

    ready: list[Published] = field(default_factory=list)
    failed: list[Published] = field(default_factory=list)
    deferred: list[Published] = field(default_factory=list)
    dead_letters: list[Published] = field(default_factory=list)

    @property
    def bought(self) -> list[Published]:
        return [outcome for outcome in self.ready if not outcome.data["cached"]]

    def of(self, key: str) -> list[Published]:
        """The pictures that one entity, `type:id`, was given."""
        return [outcome for outcome in self.ready if outcome.key == key]


class World:
    """One database, one set of topics, one sandbox; ends every process it started.

    `directory` is where the commands run and where logs and pictures go. `latency` is the number
    of seconds that every picture takes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        database_url: str,
        kafka_bootstrap: str,
        prefix: str,
        latency: float = 0.0,
    ) -> None:
        self.directory = directory
        self.sandbox = Sandbox(directory / "pictures", latency=latency)
        self._prefix = prefix
        self._services = {
            "database_url": database_url,
            "kafka_bootstrap_servers": kafka_bootstrap,
            "embedded_broker": str(services.kafka().name.startswith("embedded")),
        }
        self._stack = ExitStack()
        self._workers: list[Running] = []
        self.environment: dict[str, str] = {}
        self.settings: Settings

    def __enter__(self) -> Self:
        self._stack.enter_context(self.sandbox)
        values = self._services | {
            "openai_api_key": "sandbox",
            "openai_base_url": self.sandbox.openai_base_url,
            "cloudinary_url": self.sandbox.cloudinary_url,
            "kafka_group": f"{self._prefix}workers",
            "kafka_session_timeout": "6",
            "poll_interval": "0.2",
            "topic_partitions": "4",
        }
        for topic in ("entity_created", "image_ready", "image_failed", "image_deferred"):
            values[f"topic_{topic}"] = f"{self._prefix}{topic.replace('_', '-')}"
        values["topic_dead_letters"] = f"{self._prefix}entity-created.dlq"
        self.settings = load(_env_file=None, **values)
        self.environment = {f"IMAGEPIPE_{name.upper()}": text for name, text in values.items()}
        topics.ensure(self.settings)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, worker in enumerate(self._workers, 1):
            if worker.is_running:
                worker.kill()
            sys.stdout.write(f"---- log of worker {number}\n{worker.log}\n")
        self._stack.close()

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Return as soon as `condition` holds; fails at once when a worker has failed."""
        wait_until(lambda: self._worker_failed or condition(), what)
        assert not self._worker_failed, "a worker has failed"

    @property
    def _worker_failed(self) -> bool:
        return any(worker.has_failed for worker in self._workers)

    @property
    def shell(self) -> dict[str, str]:
        """The environment of every command in this world."""
        return bare_environment(**self.environment)

    def start_worker(self, *command: str, **variables: str) -> Running:
        """`imagepipe worker`, or another command that runs one, with further variables."""
        worker = Running(
            list(command) or imagepipe("worker"),
            bare_environment(**self.environment | variables),
            self.directory,
            self.directory / f"worker-{len(self._workers) + 1}.log",
        )
        self._workers.append(worker)
        return worker

    def run(
        self, *arguments: str, stdin: str = "", **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """`imagepipe ARGUMENTS`, to its end, with further variables."""
        return subprocess.run(
            imagepipe(*arguments),
            env=bare_environment(**self.environment | variables),
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def publish(self, rows: Iterable[Any]) -> None:
        """`imagepipe publish -` of request data or CloudEvents."""
        answer = self.run("publish", "-", stdin=json_lines(rows))
        assert answer.returncode == 0, answer.stderr

    def produce(
        self,
        records: Iterable[tuple[bytes | None, bytes | None, Headers]],
        *,
        topic: str | None = None,
        at: datetime | None = None,
    ) -> None:
        """Records of key, value and headers, as they are, in this order, to `entity-created` or
        another topic, now or with another instant."""
        timestamp_ms = None if at is None else round(at.timestamp() * 1000)
        producer = KafkaProducer(**topics.client_options(self.settings), acks="all")
        try:
            sent = [
                producer.send(
                    topic or self.settings.topic_entity_created,
                    value=value,
                    key=key,
                    headers=list(headers),
                    timestamp_ms=timestamp_ms,
                )
                for key, value, headers in records
            ]
            producer.flush()
            for answer in sent:
                answer.get(timeout=PATIENCE)
        finally:
            producer.close()

    def lift_limits(self) -> None:
        """A thousand pictures an hour."""
        answer = self.run("limits", "apply", "-", stdin=UNLIMITED)
        assert answer.returncode == 0, answer.stderr

    def outcomes(
        self,
        *,
        ready: int = 0,
        failed: int = 0,
        deferred: int = 0,
        dead_letters: int = 0,
        within: float = PATIENCE,
    ) -> Outcomes:
        """Read the outcome topics from their beginning until at least that many are there."""
        names = topics.names(self.settings)[1:]
        consumer = topics.reader(self.settings, names, from_beginning=True)
        found: dict[str, list[Published]] = {name: [] for name in names}
        wanted = dict(zip(names, (ready, failed, deferred, dead_letters), strict=True))
        deadline = time.monotonic() + within
        try:
            while any(len(found[name]) < number for name, number in wanted.items()):
                if self._worker_failed or time.monotonic() > deadline:
                    came = {name: len(records) for name, records in found.items()}
                    raise AssertionError(f"within {within} s came {came}, not {wanted}")
                for records in consumer.poll(timeout_ms=100).values():
                    for record in records:
                        key = None if record.key is None else record.key.decode()
                        found[record.topic].append(
                            Published(key, record.value, dict(record.headers))
                        )
        finally:
            consumer.close()
        return Outcomes(*found.values())

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of the database."""
        with psycopg.connect(str(self._services["database_url"])) as connection:
            return connection.execute(statement).fetchall()
