"""Many pictures at once: what a worker adds to the provider's own time, and how much memory."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.known import data
from benchmarks.results import Report, Run, percentile, series, target
from benchmarks.stage import WIDE_LIMITS, Stage
from benchmarks.traffic import Event, Traffic, event, traffic
from pipeline.cli.worker import KEEPING_MEMORY
from tests.acceptance.harness import ROOT, World

SECONDS = 2.0  # that the provider takes for a picture
BYTES = 2_000_000  # of a picture
BURSTS = 3  # of each way in a run, in turns
WARM_UP = 8  # pictures
POLL = 0.01  # seconds between looks at a worker's memory
IN_MEMORY = Path("/dev/shm")  # noqa: S108
HOW = (
    "{pictures} pictures of {megabytes:g} MB are bought at once by one worker (concurrency"
    " {pictures}); the provider takes {seconds:g} s for each. imagepipe checks each picture, keeps"
    " its bytes in PostgreSQL, settles its cost, uploads it to a media host and publishes"
    " `image-ready`: its clock runs from the first call written down until the last outcome has"
    " been read from its topic. Beside it the provider alone: as many requests with plain asyncio"
    " and httpx2, each answer read and its base64 decoded, nothing more. Provider and media host"
    " are local servers, a process each, on the same machine; pictures come from stock, drawn once"
    " and padded with noise. All four have the same settings of malloc. {bursts}"
    " bursts of each in turns, medians. Memory: the worker's resident set, polled every"
    " {poll:g} ms, from just before its first burst to its highest point in any."
)
US, ALONE, GROWTH, PEAK = "imagepipe", "provider alone", "memory growth", "memory peak"


def measure(stage: Stage) -> Report:
    pictures, bursts = (40, 1) if stage.quick else (200, BURSTS)
    runs = [run(stage, pictures, bursts) for _ in range(stage.runs)]
    in_flight = pictures * BYTES / 2**20
    return Report(
        name="inflight",
        title="Pictures in flight",
        how=HOW.format(
            pictures=pictures,
            megabytes=BYTES / 1e6,
            seconds=SECONDS,
            bursts=bursts,
            poll=POLL * 1000,
        ),
        quick=stage.quick,
        series=[series(runs, name, "pictures/s") for name in (US, ALONE)]
        + [series(runs, name, "MiB") for name in (GROWTH, PEAK)],
        targets=[
            target(runs, f"{US} / {ALONE}", lambda r: r[US] / r[ALONE], "at least", 0.9),
            target(
                runs,
                f"{GROWTH} / bytes in flight",
                lambda r: r[GROWTH] / in_flight,
                "at most",
                2.5,
            ),
        ],
        about=stage.about(),
    )


def run(stage: Stage, pictures: int, bursts: int) -> Run:
    """Pictures a second of both ways, and the worker's memory in MiB."""
    us, alone = [], []
    with ExitStack() as stack:
        url = stack.enter_context(stage.database())
        world = stack.enter_context(stage.world(url))
        provider, host = stack.enter_context(sandbox()), stack.enter_context(sandbox())
        answer = world.run("limits", "apply", "-", stdin=WIDE_LIMITS)
        assert answer.returncode == 0, answer.stderr
        worker = world.start_worker(
            IMAGEPIPE_CONCURRENCY=str(pictures),
            IMAGEPIPE_OPENAI_BASE_URL=provider["openai_base_url"],
            IMAGEPIPE_CLOUDINARY_URL=host["cloudinary_url"],
        )
        flow = stack.enter_context(of(world))
        buy(world, flow, 0, WARM_UP)
        with watched(worker.pid) as memory:
            for number in range(bursts):
                alone.append(provider_alone(provider["openai_base_url"], pictures))
                us.append(buy(world, flow, WARM_UP + number * pictures, pictures))
        check(world, WARM_UP + bursts * pictures)
    return {
        US: percentile(us, 50),
        ALONE: percentile(alone, 50),
        GROWTH: (memory.peak - memory.before) / 2**20,
        PEAK: memory.peak / 2**20,
    }


@contextmanager
def sandbox() -> Iterator[dict[str, Any]]:
    """The addresses of a provider and a media host in a process of their own, which should cost as
    little as possible: their files are in memory."""
    memory = IN_MEMORY if IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="benchmark-sandbox-", dir=memory) as directory:
        options = [f"--latency={SECONDS}", f"--picture-bytes={BYTES}"]
        with subprocess.Popen(
            [sys.executable, "-m", "sandbox", directory, *options],
            cwd=ROOT,
            env=os.environ | KEEPING_MEMORY,
            stdin=subprocess.PIPE,  # whose end, at the end of this block, is the process's
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())


@contextmanager
def of(world: World) -> Iterator[Traffic]:
    """The traffic of a world's worker."""
    settings = world.settings
    with traffic(
        settings.kafka_bootstrap_servers, settings.topic_entity_created, settings.topic_image_ready
    ) as flow:
        yield flow


def buy(world: World, flow: Traffic, first: int, pictures: int) -> float:
    """Send events of so many new pictures at once: pictures a second from the first call until the
    last outcome is there."""
    flow.send(some(first, pictures))
    flow.read(pictures)
    [(seconds,)] = world.query(f"""
        SELECT extract(epoch FROM clock_timestamp() - min(started_at))
        FROM (SELECT started_at FROM imagepipe.attempts ORDER BY started_at DESC
              LIMIT {pictures}) burst
    """)
    return pictures / float(seconds)


def some(first: int, number: int) -> list[Event]:
    """Events of so many entities, each with a picture of its own."""
    return [event(data(one, 10**9)) for one in range(first, first + number)]


def provider_alone(base_url: str, pictures: int) -> float:
    """Pictures a second with nothing around them."""
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.beside.provider_alone", base_url, str(pictures)],
        cwd=ROOT,
        env=os.environ | KEEPING_MEMORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return pictures / float(answer.stdout)


class Memory:
    """A process's resident memory in bytes: before, and its highest point."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.before = self.peak = self._now

    @property
    def _now(self) -> int:
        return int(self._process.memory_info().rss)

    def watch(self, done: threading.Event) -> None:
        while not done.wait(POLL):
            self.peak = max(self.peak, self._now)


@contextmanager
def watched(pid: int) -> Iterator[Memory]:
    """A process whose memory is looked at all the time."""
    memory, done = Memory(pid), threading.Event()
    thread = threading.Thread(target=memory.watch, args=[done])
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def check(world: World, pictures: int) -> None:
    """Every picture was bought once, and nothing is left in the spool."""
    [(assets, attempts, spooled)] = world.query("""
        SELECT (SELECT count(*) FROM media_assets), (SELECT count(*) FROM imagepipe.attempts),
               (SELECT count(*) FROM imagepipe.image_spool)
    """)
    if (assets, attempts, spooled) != (pictures, pictures, 0):
        raise AssertionError(
            f"of {pictures} pictures: {assets} assets, {attempts} calls, {spooled} in the spool"
        )
