"""Reservations per second, one by one and in batches, with an empty and a full window.

A batch is what a claim does about its money: one durable transaction that opens the books, admits
and reserves. The cases take turns, each starts from the same ledger every time, and the median of
their runs counts. Nothing leaves a window meanwhile: only how much is in it differs.

Ids are random, so after a checkpoint each page of their index goes to the log in full once; a run
begins when that is over, as for a server that has been busy for some minutes.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline import ledger, migrate
from pipeline.database import create_engine
from pipeline.ids import time_ordered
from pipeline.ledger import Reservation
from pipeline.rules.limits import Limit, Purchase, admit
from sandbox.database import EmbeddedDatabase

HOUR, DAY = 3600, 86400
PLENTY = 10**15
LIMITS = [  # the windows of a new database, wide open
    Limit("hour", "global", HOUR, PLENTY, None),
    Limit("day", "global", DAY, PLENTY, None),
    Limit("daily-cost", "global", DAY, None, PLENTY),
    Limit("backfill-hour", "source:backfill", HOUR, PLENTY, None, derived=True),
    Limit("backfill-day", "source:backfill", DAY, PLENTY, None, derived=True),
    Limit("backfill-daily-cost", "source:backfill", DAY, None, PLENTY, derived=True),
]
PURCHASE = Purchase("live", "listing", 13_000)

RUNS = 3


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    live_rows: int
    warm_up: int  # reservations before each run, in batches of 1,000, which are removed again
    transactions: dict[int, int]  # per run, by reservations per transaction


WHOLE = Size(1_000_000, 40_000, {1: 1_000, 100: 300})
QUICK = Size(20_000, 1_000, {1: 50, 100: 10})


@dataclass(frozen=True, slots=True)
class Result:
    """Reservations per second of one case: every run, and their median."""

    live_rows: int
    batch: int
    runs: list[float]
    median: float


async def measure(server_url: str, size: Size) -> list[Result]:
    """Run every case `RUNS` times, in turns."""
    runs: dict[tuple[int, int], list[float]] = {}
    async with ledger_of(server_url, 0) as empty, ledger_of(server_url, size.live_rows) as full:
        engines = {0: empty, size.live_rows: full}
        cases = product(range(RUNS), size.transactions.items(), engines.items())
        for _, (batch, transactions), (live_rows, engine) in cases:
            await start_again(engine, size.warm_up)
            started = time.perf_counter()
            await reserve(engine, batch, transactions)
            seconds = time.perf_counter() - started
            rate = round(batch * transactions / seconds, 1)
            runs.setdefault((live_rows, batch), []).append(rate)
    return [
        Result(live_rows, batch, rates, statistics.median(rates))
        for (live_rows, batch), rates in runs.items()
    ]


@asynccontextmanager
async def ledger_of(server_url: str, live_rows: int) -> AsyncIterator[AsyncEngine]:
    """A new database whose ledger has so many purchases of the last half hour."""
    name = f"admission_{live_rows}"
    await execute(create_engine(server_url), f"CREATE DATABASE {name}")
    url = make_url(server_url).set(database=name).render_as_string(hide_password=False)
    await asyncio.to_thread(migrate.upgrade, url)
    engine = create_engine(url, pool_size=1)
    async with engine.begin() as connection:
        await connection.execute(
            text("""
                INSERT INTO imagepipe.reservations
                    (id, at, source, type, model, state, bound_microusd, microusd, requests)
                SELECT gen_random_uuid(), instant - number * interval '30 minutes' / :live_rows,
                       :source, :type, 'model', 'settled', :microusd, :microusd, 1
                FROM imagepipe.ledger_clock, generate_series(1, :live_rows) number
                ORDER BY number DESC
            """),
            {"live_rows": live_rows, **asdict(PURCHASE)},
        )
    yield engine
    await engine.dispose()


async def start_again(engine: AsyncEngine, warm_up: int) -> None:
    """Warm up, then remove what was reserved and build the windows from what was there before."""
    await execute(engine, "CHECKPOINT")
    await reserve(engine, 1_000, warm_up // 1_000)
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM imagepipe.reservations WHERE state = 'held'"))
        await ledger.apply_limits(connection, [])
        await ledger.apply_limits(connection, LIMITS)
    await execute(engine, "VACUUM (ANALYZE, TRUNCATE off)")  # as where old rows have gone
    await reserve(engine, 1, 20)  # on a new connection: statements are prepared now


async def execute(engine: AsyncEngine, statement: str) -> None:
    """Run a statement that PostgreSQL takes only outside transactions."""
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with alone.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


async def reserve(engine: AsyncEngine, batch: int, transactions: int) -> None:
    """What a claim does about its money, so many times."""
    queue = [PURCHASE] * batch
    for _ in range(transactions):
        async with engine.begin() as connection:
            opened = await ledger.open_books(connection)
            admitted = admit(opened.books, queue).admitted
            reservations = [
                Reservation(time_ordered(), queue[index], "model") for index in admitted
            ]
            await ledger.reserve(connection, opened.now, reservations)


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "sqlalchemy": version("sqlalchemy"),
        "psycopg": version("psycopg"),
    }


async def server_settings(server_url: str) -> dict[str, str]:
    engine = create_engine(server_url)
    async with engine.begin() as connection:
        names = ("server_version", "fsync", "synchronous_commit", "shared_buffers")
        settings = {
            name: str(
                await connection.scalar(text("SELECT current_setting(:name)"), {"name": name})
            )
            for name in names
        }
    await engine.dispose()
    return settings


def table(results: list[Result]) -> Table:
    """One line per batch size, and how far the full window is from the empty one."""
    rates = {(result.live_rows, result.batch): result.median for result in results}
    full = max(result.live_rows for result in results)
    table = Table(title="Reservations per second (medians)")
    for heading in ("per transaction", "0 live rows", f"{full:,} live rows", "difference"):
        table.add_column(heading, justify="right")
    for batch in sorted({result.batch for result in results}):
        none, many = rates[0, batch], rates[full, batch]
        table.add_row(str(batch), f"{none:,.0f}", f"{many:,.0f}", f"{many / none - 1:+.1%}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.admission", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    options = parser.parse_args()
    about = machine()
    with (
        tempfile.TemporaryDirectory(prefix="imagepipe-benchmark-") as directory,
        EmbeddedDatabase(Path(directory)) as database,
    ):
        results = asyncio.run(measure(database.url, QUICK if options.quick else WHOLE))
        about |= asyncio.run(server_settings(database.url))
    console = Console()
    console.print(table(results))
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    if options.json:
        figures = {"machine": about, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
