"""What `imagepipe replay` shows while it works, and how it is asked to end."""

import asyncio
import signal
from collections.abc import Sequence
from typing import Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pipeline.dead_letters import DeadLetter
from pipeline.replays import Position

NAMED = 20
"""So many records that are no events are named one by one; the rest are only counted."""


class Watch:
    """Shows on standard error how far the replay has come, and may listen for Ctrl-C meanwhile."""

    def __init__(self, positions: Sequence[Position], *, listening: bool) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        total = sum(position.left for position in positions)
        self._task = self._progress.add_task("records", total=total)
        self._signals = (signal.SIGINT, signal.SIGTERM) if listening else ()
        self._wrong = 0
        self._stop = False

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self._interrupt, number)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.remove_signal_handler(number)
        if self._wrong > NAMED:
            typer.echo(f"imagepipe: and {self._wrong - NAMED} more", err=True)

    def _interrupt(self, number: int) -> None:
        """The second one ends the process at once, which does no harm either."""
        self._stop = True
        asyncio.get_running_loop().remove_signal_handler(number)
        self._progress.console.print("ending after this batch")

    def stopped(self) -> bool:
        return self._stop

    def seen(self, letters: Sequence[DeadLetter], moved: int) -> None:
        """A batch is done."""
        for letter in letters:
            self._wrong += 1
            if self._wrong <= NAMED:
                record = letter.record
                place = f"{record.topic}[{record.partition}]@{record.offset}"
                self._progress.console.print(
                    f"{place}: {letter.code}: {letter.message}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
        self._progress.advance(self._task, moved)


class Rate(ProgressColumn):
    """Records per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.0f}/s")
