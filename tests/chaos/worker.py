"""A worker process that can be killed, frozen and watched."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]

WORKER = [sys.executable, "-m", "faust", "-A", "agents.app", "worker", "-l", "info"]
"""What `imagepipe worker` becomes once it has looked at the schema: two hundred starts count."""


class Worker:
    """One worker process, with its log in a file."""

    def __init__(self, number: int, environment: dict[str, str], directory: Path) -> None:
        self.number = number
        self.log = directory / f"worker-{number:03}.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                WORKER,
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it lives; minus the signal's number when one killed it."""
        return self._process.poll()

    @property
    def ready(self) -> bool:
        return b"Ready" in self.log.read_bytes()

    @property
    def frozen(self) -> bool:
        try:
            return bool(psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED)
        except psutil.NoSuchProcess:
            return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended gets none."""
        self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Its exit code; raises `subprocess.TimeoutExpired`."""
        return self._process.wait(seconds)
