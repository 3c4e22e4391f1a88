"""`imagepipe worker`."""

import os
import socket
import sys

from sqlalchemy.exc import OperationalError

from pipeline import migrate, wiring
from pipeline.settings import Settings, SettingsError, load

KEEPING_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "67108864", "MALLOC_TRIM_THRESHOLD_": "268435456"}
"""For glibc's malloc, in bytes: pictures come and go in megabytes, and to ask the system for each
anew takes more time than to decode it."""


def worker() -> None:
    """Run a worker: intake, generate, announce. More workers mean more throughput.

    Needs DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS, OPENAI_API_KEY, and CLOUDINARY_URL (or
    IMAGEPIPE_MEDIA_HOST=local). Checks all of them before anything starts.

    Example: imagepipe worker
    """
    settings = load()
    wiring.worker(settings)  # everything that can be wrong is found here
    refuse_unmigrated(settings)
    _refuse_a_taken_port(settings)
    loop = () if sys.platform == "win32" else ("-L", "uvloop")
    worker = ("-A", "agents.app", "worker", "-l", "info", "--without-web")
    faust = [sys.executable, "-m", "faust", *loop, *worker]
    environment = KEEPING_MEMORY | os.environ
    os.execve(sys.executable, faust, environment)  # noqa: S606 (signals go straight to the worker)


def _refuse_a_taken_port(settings: Settings) -> None:
    if not settings.metrics_port:
        return
    try:
        socket.create_server((settings.metrics_host, settings.metrics_port)).close()
    except OSError as error:
        raise SettingsError(
            f"IMAGEPIPE_METRICS_PORT: cannot listen on {settings.metrics_host} port"
            f" {settings.metrics_port}: {error.strerror}; take another one, or 0 for none"
        ) from None


def refuse_unmigrated(settings: Settings) -> None:
    """Raise `SettingsError` for a database that answers and is not migrated; one that is away is
    waited for, or asked again, later."""
    try:
        revision = migrate.current(settings.database_url)
    except OperationalError:
        return
    if revision != migrate.newest():
        raise SettingsError(
            f"the database is at revision {revision}, this release needs {migrate.newest()}:"
            " run imagepipe migrate"
        )
