"""`imagepipe up`."""

import shlex
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.embedded import Embedded
from pipeline.settings import HOME, UP_ENV

LOOK_AGAIN = 0.5  # seconds


def up(
    home: Annotated[Path, typer.Option(help="Where data is kept between runs.")] = HOME,
) -> None:
    """Start everything on this machine: PostgreSQL, a broker, a sandbox, a worker, the HTTP API.

    What the environment or .env names (DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS, OPENAI_API_KEY,
    CLOUDINARY_URL) is used instead. While it runs, the other commands find it from the same
    directory. Ctrl-C stops it.

    Example: imagepipe up, and in another terminal: imagepipe publish events.jsonl
    """
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _interrupt)
    with Embedded(home, lambda step: console.print(f"[bold]==>[/] {step}")) as embedded:
        worker = embedded.start_worker()
        api = embedded.start_api()
        _write_env(embedded.environment)
        settings = embedded.settings
        console.print(f"    database  {settings.database_url}", soft_wrap=True)
        console.print(f"    broker    {settings.kafka_bootstrap_servers}")
        if embedded.pictures:
            console.print(f"    pictures  {embedded.pictures}")
        console.print(f"    HTTP API  {embedded.api_url}, described at {embedded.api_url}/docs")
        console.print("    try       imagepipe publish FILE, imagepipe watch, imagepipe status")
        try:
            name, code = _first_to_end({"worker": worker, "API": api})
        except KeyboardInterrupt:
            console.print("[bold]==>[/] Stopping; pictures in hand are finished first")
            return
        finally:
            UP_ENV.unlink(missing_ok=True)
        console.print(f"imagepipe: the {name} has ended by itself with code {code}")
    raise typer.Exit(1)


def _first_to_end(processes: dict[str, "subprocess.Popen[bytes]"]) -> tuple[str, int]:
    """Wait until one of them ends by itself; its name and exit code."""
    while True:
        for name, process in processes.items():
            try:
                return name, process.wait(LOOK_AGAIN)
            except subprocess.TimeoutExpired:
                continue


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _write_env(environment: dict[str, str]) -> None:
    """For the other commands; readable by this user alone, since it may hold keys."""
    UP_ENV.parent.mkdir(parents=True, exist_ok=True)
    UP_ENV.touch(mode=0o600)
    UP_ENV.write_text(
        "".join(f"{name}={shlex.quote(text)}\n" for name, text in environment.items()), "utf-8"
    )
