"""Fault points: named steps at which a process can be told to die or to freeze, by its environment.

`IMAGEPIPE_FAULT=NAME[:N[:stop]]` kills the process (SIGKILL) when it reaches the point for the N-th
time, or freezes it (SIGSTOP) with `stop`. Without that setting `reach` does nothing.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

POINTS = (
    "intake.before_transaction",
    "intake.before_commit",
    "intake.after_commit",
    "hits.after_commit",
    "claim.before_transaction",
    "claim.before_commit",
    "claim.after_commit",
    "generate.before_call",
    "generate.during_call",
    "generate.after_call",
    "spool.before_commit",
    "spool.after_commit",
    "upload.before",
    "upload.during",
    "upload.after",
    "complete.before_commit",
    "complete.after_commit",
    "failure.before_commit",
    "failure.after_commit",
    "publish.before",
    "publish.after",
    "mark.before_commit",
    "mark.after_commit",
)
"""Every step of intake, generate and announce at which a death must change nothing."""

DURING = 0.05  # seconds into a call to the outside


@dataclass(slots=True)
class _Armed:
    point: str
    left: int
    signal: int


_armed: _Armed | None = None


def arm(fault: str | None) -> None:
    """Arm one point, as `IMAGEPIPE_FAULT` writes it; raises `ValueError` for an unknown one."""
    global _armed  # noqa: PLW0603 (one process, one fault)
    if not fault:
        _armed = None
        return
    point, _, rest = fault.partition(":")
    times, _, action = rest.partition(":")
    if point not in POINTS or not (times or "1").isdigit() or action not in ("", "stop"):
        raise ValueError(f"{fault!r} is no fault point; write NAME[:N[:stop]] with one of POINTS")
    _armed = _Armed(point, int(times or 1), signal.SIGSTOP if action else signal.SIGKILL)


def reach(point: str) -> None:
    """Die or freeze here, if this is the armed point and its time has come."""
    if _armed is None or _armed.point != point:
        return
    _armed.left -= 1
    if _armed.left == 0:
        os.kill(os.getpid(), _armed.signal)


@contextmanager
def during(point: str) -> Iterator[None]:
    """Reach the point shortly after the block was entered, if it is still running then."""
    if _armed is None or _armed.point != point:
        yield
        return
    timer = asyncio.get_running_loop().call_later(DURING, reach, point)
    try:
        yield
    finally:
        timer.cancel()
