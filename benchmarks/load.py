"""Load on an HTTP server, from a process of its own: POSTs over connections that are kept alive.

The loop is closed: each connection sends its next request when the answer to its last has come.
Requests are made beforehand and answers are read only as far as their status and length, so that
the generator takes a small part of the machine it shares with what it measures.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from urllib.parse import urlsplit

import uvloop

from benchmarks.results import percentile

PATIENCE = 30.0  # seconds until an answer that is under way at the end must have come
LOOKED_AT = 100  # of so many answers one is read whole


class WrongAnswer(RuntimeError):
    """An answer that was not 200, or not a hit."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """All answers that came: every request that was sent has one. Latencies in milliseconds."""

    count: int
    seconds: float  # from the first request sent to the last answer
    latencies: list[float]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.count / self.seconds

    def percentile(self, percent: float) -> float:
        return percentile(self.latencies, percent)


def post(
    url: str,
    bodies: Sequence[bytes],
    connections: int,
    seconds: float,
    headers: Mapping[str, str] | None = None,
) -> LoadResult:
    """POST the bodies in turn for so many seconds, and wait for the last answers; raises
    `WrongAnswer` as soon as one is not 200, or one that is looked at does not say it is a hit."""
    job = {
        "url": url,
        "bodies": [body.decode() for body in bodies],
        "connections": connections,
        "seconds": seconds,
        "headers": dict(headers or {}),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=seconds + 2 * PATIENCE,
        check=False,
    )
    if done.returncode:
        raise WrongAnswer(done.stderr.strip().rpartition("\n")[2])
    return LoadResult(**json.loads(done.stdout))


class _Connection(asyncio.Protocol):
    """One connection of the loop; `done` when it has nothing under way and the time is over."""

    def __init__(self, requests: Iterator[bytes], latencies: list[float]) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._requests, self._latencies = requests, latencies
        self._buffer = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def start(self, until: float) -> None:
        self._until = until
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end_of_head, body = self._buffer.partition(b"\r\n\r\n")
        if not end_of_head or len(body) < _length(head):
            return
        now = time.perf_counter()
        self._latencies.append((now - self._sent) * 1000)
        if trouble := self._trouble(head, body):
            self._end(WrongAnswer(trouble))
        elif now < self._until:
            self._buffer = b""
            self._send()
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(WrongAnswer(f"the connection was lost: {exc}"))

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))

    def _trouble(self, head: bytes, body: bytes) -> str:
        if not head.startswith(b"HTTP/1.1 200 "):
            first_line = head.partition(b"\r\n")[0]
            return f"{first_line.decode()}: {body.decode()}"
        if len(self._latencies) % LOOKED_AT == 1 and json.loads(body)["cached"] is not True:
            return f"no hit: {body.decode()}"
        return ""

    def _end(self, error: Exception | None) -> None:
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)
        self._transport.close()


def _length(head: bytes) -> int:
    _, _, after = head.lower().partition(b"content-length:")
    return int(after.partition(b"\r\n")[0])


def _requests(url: str, bodies: Sequence[str], headers: Mapping[str, str]) -> list[bytes]:
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [
        f"{name}: {value}"
        for name, value in ({"Content-Type": "application/json"} | dict(headers)).items()
    ]
    head = "\r\n".join(lines)
    encoded = [body.encode() for body in bodies]
    return [f"{head}\r\nContent-Length: {len(e)}\r\n\r\n".encode() + e for e in encoded]


async def _run(
    url: str,
    bodies: Sequence[str],
    connections: int,
    seconds: float,
    headers: Mapping[str, str],
) -> LoadResult:
    requests = cycle(_requests(url, bodies, headers))
    parts = urlsplit(url)
    latencies: list[float] = []
    opened = [
        await asyncio.get_running_loop().create_connection(
            lambda: _Connection(requests, latencies), parts.hostname or "", parts.port or 80
        )
        for _ in range(connections)
    ]
    started = time.perf_counter()
    for _, connection in opened:
        connection.start(started + seconds)
    async with asyncio.timeout(seconds + PATIENCE):
        await asyncio.gather(*(connection.done for _, connection in opened))
    return LoadResult(len(latencies), time.perf_counter() - started, latencies)


def main() -> None:
    job = json.load(sys.stdin)
    found = json.dumps(asdict(uvloop.run(_run(**job))))
    # Buffered even under PYTHONUNBUFFERED, where what an interrupted write leaves over is lost.
    with os.fdopen(sys.stdout.fileno(), "wb", closefd=False) as output:
        output.write(found.encode())


if __name__ == "__main__":
    main()
