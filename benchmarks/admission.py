"""Reservations per second, one by one and in batches, with an empty and a full window.

A batch is what a claim does about its money: one durable transaction that opens the books, admits
and reserves. The cases take turns, and in every run each starts from the same ledger. Nothing
leaves a window meanwhile: only how much is in it differs.

Ids are random, so after a checkpoint each page of their index goes to the log in full once; a run
begins when that is over, as for a server that has been busy for some minutes.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.results import Report, Run, Target, series, target
from benchmarks.stage import Stage
from pipeline import audit, ledger
from pipeline.database import create_engine
from pipeline.ids import time_ordered
from pipeline.ledger import Reservation
from pipeline.rules.limits import Limit, Purchase, admit

HOUR, DAY = 3600, 86400
PLENTY = 10**15
BATCHES = ONE, MANY = 1, 100  # reservations a transaction
BARE = "one counter"
TURNS = 10  # in which each case does a tenth of its transactions
HOW = (
    "Reservations a second over one connection, each transaction durable. A transaction does what a"
    " claim does about its money: it opens the books, admits what is queued against six windows,"
    " and writes one reservation or {many}; once with nothing in the windows and once with"
    " {live_rows:,} reservations of the last half hour. In every run both start from the same"
    " ledger, after {warm_up:,} reservations that are removed again, and take turns. Beside them a"
    " limit at its simplest: `UPDATE counter SET n = n + 1 WHERE n < :max` on one row, one"
    " transaction each, with the same driver on the same server; it forgets nothing after an hour"
    " and knows one window. Afterwards every reservation is in the ledger, and the sums in the"
    " windows are those of its rows."
)
LIMITS = [  # the windows of a new database, wide open
    Limit("hour", "global", HOUR, PLENTY, None),
    Limit("day", "global", DAY, PLENTY, None),
    Limit("daily-cost", "global", DAY, None, PLENTY),
    Limit("backfill-hour", "source:backfill", HOUR, PLENTY, None, derived=True),
    Limit("backfill-day", "source:backfill", DAY, PLENTY, None, derived=True),
    Limit("backfill-daily-cost", "source:backfill", DAY, None, PLENTY, derived=True),
]
PURCHASE = Purchase("live", "listing", 13_000)
FIRST = 20  # transactions on a connection before the clock starts


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    live_rows: int
    warm_up: int  # reservations before each run, in batches of 1,000, which are removed again
    transactions: dict[int, int]  # per run, by reservations per transaction


WHOLE = Size(1_000_000, 40_000, {ONE: 3_000, MANY: 400})
QUICK = Size(20_000, 2_000, {ONE: 300, MANY: 50})


def measure(stage: Stage) -> Report:
    size = QUICK if stage.quick else WHOLE
    with stage.database() as empty, stage.database() as full:
        runs = asyncio.run(take_turns({0: empty, size.live_rows: full}, size, stage.runs))
    cases = [case(batch, rows) for batch in BATCHES for rows in (0, size.live_rows)]
    return Report(
        name="admission",
        title="Reservations against sliding windows",
        how=HOW.format(many=MANY, live_rows=size.live_rows, warm_up=size.warm_up),
        quick=stage.quick,
        series=[series(runs, name, "reservations/s") for name in (*cases, BARE)],
        targets=[
            ratio(runs, case(MANY, size.live_rows), BARE, 5),
            *(ratio(runs, case(batch, size.live_rows), case(batch, 0), 0.9) for batch in BATCHES),
        ],
        about=stage.about(),
    )


def case(batch: int, live_rows: int) -> str:
    return f"imagepipe, {batch} a transaction, {live_rows:,} live rows"


def ratio(runs: list[Run], this: str, that: str, bound: float) -> Target:
    return target(runs, f"{this} / {that}", lambda r: r[this] / r[that], "at least", bound)


async def take_turns(urls: dict[int, str], size: Size, runs: int) -> list[Run]:
    """Every case in every run, on the databases of so many live rows."""
    async with AsyncExitStack() as stack:
        engines = {
            live_rows: await stack.enter_async_context(ledger_of(url, live_rows))
            for live_rows, url in urls.items()
        }
        return [await run(engines, size) for _ in range(runs)]


async def run(engines: dict[int, AsyncEngine], size: Size) -> Run:
    """Reservations a second of each case, and of the counter."""
    figures: dict[str, float] = {}
    for batch, transactions in size.transactions.items():
        await execute(engines[0], "CHECKPOINT")
        for engine in engines.values():
            await start_again(engine, size.warm_up)
        several = transactions // TURNS
        turns = {
            case(batch, rows): Turn(batch * several, partial(reserve, engine, batch, several))
            for rows, engine in engines.items()
        }
        if batch == MANY:
            one_by_one = size.transactions[ONE] // TURNS
            turns[BARE] = Turn(one_by_one, partial(count, engines[0], one_by_one))
        figures |= await rates(turns)
        for engine in engines.values():
            await check(engine, FIRST + batch * several * TURNS)
    return figures


@dataclass(frozen=True, slots=True)
class Turn:
    """What is done before the next one's turn, and how many reservations that makes."""

    reservations: int
    work: Callable[[], Awaitable[None]]


async def rates(turns: dict[str, Turn]) -> Run:
    """Reservations a second of each, all taking turns: what disturbs one disturbs the others."""
    seconds = dict.fromkeys(turns, 0.0)
    for _ in range(TURNS):
        for name, turn in turns.items():
            started = time.perf_counter()
            await turn.work()
            seconds[name] += time.perf_counter() - started
    return {name: TURNS * turn.reservations / seconds[name] for name, turn in turns.items()}


@asynccontextmanager
async def ledger_of(url: str, live_rows: int) -> AsyncIterator[AsyncEngine]:
    """An engine for a database, whose ledger then has so many purchases of the last half hour."""
    engine = create_engine(url, pool_size=1)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE counter (n bigint NOT NULL)"))
        await connection.execute(text("INSERT INTO counter VALUES (0)"))
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
    await reserve(engine, 1_000, warm_up // 1_000)
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM imagepipe.reservations WHERE state = 'held'"))
        await ledger.apply_limits(connection, [])
        await ledger.apply_limits(connection, LIMITS)
    await execute(engine, "VACUUM (ANALYZE, TRUNCATE off)")  # as where old rows have gone
    await count(engine, FIRST)
    await reserve(engine, ONE, FIRST)  # on a new connection: statements are prepared now


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


async def count(engine: AsyncEngine, transactions: int) -> None:
    """The simplest limit there is, so many times."""
    update = text("UPDATE counter SET n = n + 1 WHERE n < :max")
    for _ in range(transactions):
        async with engine.begin() as connection:
            counted = await connection.execute(update, {"max": PLENTY})
            assert counted.rowcount == 1


async def check(engine: AsyncEngine, reserved: int) -> None:
    """So many reservations are in the ledger, and the windows hold what the ledger does."""
    held = text("SELECT count(*) FROM imagepipe.reservations WHERE state = 'held'")
    async with engine.begin() as connection:
        found = await connection.scalar(held)
        wrong = await audit.windows(connection)
    if found != reserved or wrong:
        raise AssertionError(f"{found} reservations instead of {reserved}; {wrong}")
