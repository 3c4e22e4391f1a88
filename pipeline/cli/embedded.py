"""The embedded set-up: PostgreSQL, a broker, the sandbox, a worker and the HTTP API, with nothing
but Python.

What the environment names is used as it is; what it leaves out is started here. Worker and API
are processes of their own that know nothing of this: they get addresses by environment variables.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pipeline import migrate, topics
from pipeline.api import server
from pipeline.settings import Settings, SettingsError, load
from sandbox.broker import EmbeddedBroker, EmbeddedBrokerError
from sandbox.database import EmbeddedDatabase, EmbeddedDatabaseError
from sandbox.server import Sandbox

STOP_WITHIN = 400.0  # seconds: a paid call may be in flight
_PR_SET_PDEATHSIG = 1


class Embedded:
    """Starts what is missing, then worker and API; stops them in the opposite order.

    `say` is told each step. `home` keeps the database, the pictures and the sandbox's port.
    """

    def __init__(self, home: Path, say: Callable[[str], None]) -> None:
        self._home = home
        self._say = say
        self._stack = ExitStack()
        self.given = load(_env_file=".env")
        self.environment: dict[str, str] = {}
        self.pictures: Path | None = None

    def __enter__(self) -> Self:
        self._home.mkdir(parents=True, exist_ok=True)
        try:
            self._start_database()
            self._start_broker()
            self._start_sandbox()
        except (EmbeddedDatabaseError, EmbeddedBrokerError) as error:
            self._stack.close()
            raise SettingsError(str(error)) from None
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def settings(self) -> Settings:
        """The settings that the worker gets."""
        named = {
            name.removeprefix("IMAGEPIPE_").lower(): text for name, text in self.environment.items()
        }
        return load(_env_file=".env", **named)

    def start_worker(self, log: IO[str] | None = None) -> "subprocess.Popen[bytes]":
        """Start a worker; its log goes to `log` or to standard error. It is stopped with us."""
        self._say("Worker")
        return self._start("worker", log)

    def start_api(
        self, log: IO[str] | None = None, *, port: int | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start the HTTP API, on `port` or the one configured; where that is taken, or 0, on a free
        one."""
        host = self.given.api_host
        port = self.given.api_port if port is None else port
        try:
            found = server.bind(host, port)
        except OSError:
            found = server.bind(host, 0)
        with found:
            self._set(api_host=host, api_port=found.getsockname()[1])
        self._say("HTTP API")
        return self._start("api", log)

    @property
    def api_url(self) -> str:
        """Where the HTTP API answers."""
        settings = self.settings
        return f"http://{settings.api_host}:{settings.api_port}"

    def _start(self, command: str, log: IO[str] | None) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", command],
            env=os.environ | self.environment,
            stdout=log or sys.stderr,
            stderr=log or sys.stderr,
            start_new_session=True,  # Ctrl-C is ours; the process gets a SIGTERM from us
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )
        self._stack.callback(_stop, process)
        return process

    def _set(self, **values: object) -> None:
        self.environment |= {f"IMAGEPIPE_{k.upper()}": str(v) for k, v in values.items()}

    def _start_database(self) -> None:
        url = self.given.database_url
        if not url:
            self._say(f"PostgreSQL, embedded, its data in {self._home}")
            url = self._stack.enter_context(EmbeddedDatabase(self._home)).url
        self._set(database_url=url)
        migrate.upgrade(url)

    def _start_broker(self) -> None:
        if self.given.kafka_bootstrap_servers:
            self._set(kafka_bootstrap_servers=self.given.kafka_bootstrap_servers)
            return
        self._say("Kafka broker, embedded: in memory, for trials only")
        partitions = dict.fromkeys(topics.names(self.given), self.given.topic_partitions)
        broker = self._stack.enter_context(EmbeddedBroker(partitions))
        self._set(
            kafka_bootstrap_servers=broker.bootstrap_servers,
            embedded_broker=True,
            kafka_session_timeout=6,
        )

    def _start_sandbox(self) -> None:
        sells = self.given.openai_api_key is None
        keeps = self.given.media_host == "cloudinary" and self.given.cloudinary_url is None
        if not (sells or keeps):
            return
        parts = [name for name, needed in (("OpenAI", sells), ("Cloudinary", keeps)) if needed]
        self._say(f"Sandbox instead of {' and '.join(parts)}: nothing is bought, nothing leaves")
        self.pictures = self._home / "pictures"
        sandbox = _started_sandbox(self.pictures, self._home / "sandbox.port")
        self._stack.callback(sandbox.stop)
        if sells:
            self._set(openai_api_key="sandbox", openai_base_url=sandbox.openai_base_url, trial=True)
        if keeps:
            self._set(cloudinary_url=sandbox.cloudinary_url)


def _started_sandbox(pictures: Path, port_file: Path) -> Sandbox:
    """A sandbox on the port it had last time, so that the addresses it gave out stay true."""
    known = port_file.read_text("utf-8") if port_file.exists() else ""
    sandbox = Sandbox(pictures, port=int(known) if known.isdigit() else 0)
    try:
        sandbox.start()
    except OSError:
        sandbox = Sandbox(pictures)
        sandbox.start()
    port_file.write_text(sandbox.base_url.rpartition(":")[2], "utf-8")
    return sandbox


def _die_with_parent() -> None:
    """In the child, on Linux: a killed `up` takes it along."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
