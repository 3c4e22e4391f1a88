"""The ledger on a real PostgreSQL: windows exact to the microsecond, whoever else is buying.

The ledger's instant never goes back, so a test that sets it ahead of the machine's clock decides
what time it is: `Till.at` does that, and nothing needs to be waited for.
"""

import asyncio
import multiprocessing
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline import ledger
from pipeline.database import create_engine
from pipeline.ledger import LimitsRefused, Reservation, Settlement
from pipeline.rules.lifecycle import ReservationState
from pipeline.rules.limits import Limit, Purchase

HELD, SETTLED, RELEASED, UNKNOWN = (
    ReservationState.HELD,
    ReservationState.SETTLED,
    ReservationState.RELEASED,
    ReservationState.UNKNOWN,
)
MINUTE, HOUR, DAY = 60, 3600, 86400
JUST_BEFORE = -0.000_001  # the server's resolution

THREE = Limit("three", "global", MINUTE, 3, None)
DIME = Limit("dime", "global", MINUTE, None, 100_000)

Window = tuple[str, int]
Totals = dict[Window, tuple[int, int]]


def listing(microusd: int, source: str = "live") -> Purchase:
    return Purchase(source, "listing", microusd)


@dataclass
class Till:
    """The ledger's functions, each in a transaction of its own, at the instant that is set."""

    engine: AsyncEngine
    start: datetime

    async def at(self, seconds: float) -> None:
        """It is now so many seconds after the start."""
        await self._execute(
            "UPDATE imagepipe.ledger_clock SET instant = :at", at=self.time(seconds)
        )

    def time(self, seconds: float) -> datetime:
        return self.start + timedelta(seconds=seconds)

    async def apply(self, *limits: Limit) -> None:
        async with self.engine.begin() as connection:
            await ledger.apply_limits(connection, limits)

    async def buy(self, purchase: Purchase, at: float | None = None) -> UUID | None:
        """Reserve if there is room, as a claim does; None when there is not."""
        if at is not None:
            await self.at(at)
        id_ = uuid4()
        return id_ if await self.reserve(purchase, id_) else None

    async def reserve(self, purchase: Purchase, *ids: UUID) -> bool:
        """Reserve the same purchase under each id; False when there is no room for one."""
        async with self.engine.begin() as connection:
            opened = await ledger.open_books(connection)
            if opened.books.blocking(purchase):
                return False
            reservations = [Reservation(id_, purchase, "model") for id_ in ids]
            await ledger.reserve(connection, opened.now, reservations)
        return True

    async def sold(self, microusd: int, at: float) -> UUID:
        """The id of a purchase for which there is room."""
        id_ = await self.buy(listing(microusd), at)
        assert id_ is not None
        return id_

    async def settle(self, id_: UUID, state: ReservationState, microusd: int) -> None:
        async with self.engine.begin() as connection:
            await ledger.settle(connection, [Settlement(id_, state, microusd)])

    async def totals(self) -> Totals:
        """What every window holds now."""
        async with self.engine.begin() as connection:
            return (await ledger.open_books(connection)).books.totals

    async def counted(self, limit: Limit) -> tuple[int, int]:
        """What counts in a limit's window now, added up from the ledger's rows."""
        async with self.engine.begin() as connection:
            now = await ledger.now(connection)
            return (await ledger.count(connection, limit, now)).amounts

    async def room(self, purchase: Purchase, *limits: Limit) -> float | None:
        """Seconds after the start at which all of `limits` will have room."""
        async with self.engine.begin() as connection:
            now = await ledger.now(connection)
            instant = await ledger.room_for(connection, limits, purchase, now)
        return None if instant is None else (instant - self.start).total_seconds()

    async def state(self, id_: UUID) -> str:
        async with self.engine.begin() as connection:
            found = text("SELECT state FROM imagepipe.reservations WHERE id = :id")
            return str((await connection.execute(found, {"id": id_})).scalar_one())

    async def windows(self) -> set[Window]:
        async with self.engine.begin() as connection:
            return set((await ledger.read_books(connection)).totals)

    async def keep_history_from(self, seconds: float) -> None:
        await self._execute(
            "UPDATE imagepipe.ledger_clock SET history_from = :at", at=self.time(seconds)
        )

    async def _execute(self, statement: str, **values: object) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text(statement), values)


@pytest.fixture
async def till(engine: AsyncEngine) -> Till:
    """A ledger whose clock stands still, a day ahead of the machine's."""
    till = Till(engine, datetime.now(UTC) + timedelta(days=1))
    await till.at(0)
    return till


async def test_the_limits_of_a_new_database_are_the_specifications(till: Till) -> None:
    async with till.engine.begin() as connection:
        limits = await ledger.read_limits(connection)
    assert limits == [
        Limit("hour", "global", HOUR, 20, None),
        Limit("day", "global", DAY, 100, None),
        Limit("daily-cost", "global", DAY, None, 10_000_000),
        Limit("backfill-hour", "source:backfill", HOUR, 10, None, derived=True),
        Limit("backfill-day", "source:backfill", DAY, 50, None, derived=True),
        Limit("backfill-daily-cost", "source:backfill", DAY, None, 5_000_000, derived=True),
    ]


async def test_a_request_counts_for_its_span_and_not_a_microsecond_longer(till: Till) -> None:
    await till.apply(THREE)
    for second in (0, 10, 10):
        assert await till.buy(listing(1), second)
    assert not await till.buy(listing(1), 10)
    assert not await till.buy(listing(1), MINUTE + JUST_BEFORE)
    assert await till.buy(listing(1), MINUTE)
    assert not await till.buy(listing(1), 10 + MINUTE + JUST_BEFORE)
    assert await till.buy(listing(1), 10 + MINUTE)
    assert await till.buy(listing(1))  # two of the three had come at the same instant
    assert not await till.buy(listing(1))


async def test_money_is_spent_to_the_last_micro_dollar(till: Till) -> None:
    await till.apply(DIME)
    assert await till.buy(listing(60_001), 0)
    assert not await till.buy(listing(40_000), 10)
    assert await till.buy(listing(39_999), 10)
    assert not await till.buy(listing(1), MINUTE + JUST_BEFORE)
    assert not await till.buy(listing(60_002), MINUTE)
    assert await till.buy(listing(60_001), MINUTE)


async def test_a_picture_dearer_than_its_limit_never_goes(till: Till) -> None:
    await till.apply(DIME, THREE)
    assert not await till.buy(listing(100_001))
    assert await till.room(listing(100_001), THREE, DIME) is None


@pytest.mark.parametrize(
    "zero", [Limit("stop", "global", DAY, 0, None), Limit("stop", "global", DAY, None, 0)]
)
async def test_zero_means_stop(till: Till, zero: Limit) -> None:
    await till.apply(THREE, zero)
    assert not await till.buy(listing(1))
    assert await till.room(listing(1), zero) is None


@pytest.mark.parametrize(
    ("microusd", "second"),
    [
        (10_000, 20.0),  # there is room already
        (10_001, MINUTE),  # the first has to go
        (40_000, MINUTE),
        (40_001, 10.5 + MINUTE),  # the second too
        (70_000, 10.5 + MINUTE),
        (70_001, 20.0 + MINUTE),
        (100_000, 20.0 + MINUTE),
    ],
)
async def test_room_comes_exactly_when_it_was_foretold(
    till: Till, microusd: int, second: float
) -> None:
    await till.apply(DIME)
    for price, at in ((30_000, 0.0), (30_000, 10.5), (30_000, 20.0)):
        await till.sold(price, at)
    assert await till.room(listing(microusd), DIME) == second
    if second > 20:
        assert not await till.buy(listing(microusd), second - 0.001)
    assert await till.buy(listing(microusd), second)


async def test_room_for_several_limits_comes_with_the_last_of_them(till: Till) -> None:
    hourly = Limit("hourly", "type:listing", HOUR, 4, None)
    await till.apply(THREE, hourly)
    for second in (0, 5, 5, MINUTE):
        await till.sold(1, second)
    assert await till.room(listing(1), THREE) == MINUTE + 5
    assert await till.room(listing(1), THREE, hourly) == HOUR
    assert await till.room(Purchase("live", "hero", 1), THREE) == MINUTE + 5
    assert not await till.buy(listing(1), HOUR - 0.001)
    assert await till.buy(listing(1), HOUR)


async def test_what_was_given_back_or_cheaper_frees_room_at_once(till: Till) -> None:
    await till.apply(THREE, DIME)
    first, second, _ = [await till.sold(33_000, 0) for _ in range(3)]
    await till.settle(first, SETTLED, 13_000)
    assert await till.totals() == {THREE.window: (3, 79_000)}
    assert await till.room(listing(21_000), THREE, DIME) == MINUTE  # money there is, requests not
    await till.settle(second, RELEASED, 0)
    assert await till.totals() == {THREE.window: (2, 46_000)}
    assert await till.buy(listing(54_000))
    assert not await till.buy(listing(0))


async def test_a_cost_above_its_bound_counts_in_full(till: Till) -> None:
    await till.apply(DIME)
    await till.settle(await till.sold(10_000, 0), SETTLED, 250_000)
    assert await till.totals() == {DIME.window: (1, 250_000)}
    assert not await till.buy(listing(1), MINUTE + JUST_BEFORE)
    assert await till.buy(listing(100_000), MINUTE)


async def test_an_unknown_outcome_stays_paid_until_somebody_knows(till: Till) -> None:
    await till.apply(DIME)
    billed, refused = await till.sold(40_000, 0), await till.sold(40_000, 0)
    for id_ in (billed, refused):
        await till.settle(id_, UNKNOWN, 40_000)
    assert await till.totals() == {DIME.window: (2, 80_000)}
    await till.settle(billed, SETTLED, 15_000)
    await till.settle(refused, RELEASED, 0)
    assert await till.totals() == {DIME.window: (1, 15_000)}


@pytest.mark.parametrize(("state", "microusd", "requests"), [(SETTLED, 7, 1), (RELEASED, 0, 0)])
async def test_a_settled_reservation_stays_as_it_is(
    till: Till, state: ReservationState, microusd: int, requests: int
) -> None:
    await till.apply(DIME)
    id_ = await till.sold(40_000, 0)
    await till.settle(id_, state, microusd)
    for late in (RELEASED, UNKNOWN, SETTLED):
        await till.settle(id_, late, 0 if late is RELEASED else 40_000)
    assert await till.state(id_) == state
    assert await till.totals() == {DIME.window: (requests, microusd)}


@pytest.mark.parametrize("looked", [True, False], ids=["subtracted", "not yet subtracted"])
@pytest.mark.parametrize(("state", "microusd"), [(SETTLED, 90_000), (RELEASED, 0)])
async def test_a_late_settlement_touches_only_the_windows_it_is_still_in(
    till: Till, looked: bool, state: ReservationState, microusd: int
) -> None:
    hourly = Limit("hourly", "global", HOUR, 10, None)
    await till.apply(DIME, hourly)
    early, _ = await till.sold(40_000, 0), await till.sold(20_000, MINUTE - 1)
    await till.at(MINUTE)
    if looked:
        assert (await till.totals())[DIME.window] == (1, 20_000)
    await till.settle(early, state, microusd)
    kept = 0 if state is RELEASED else 1
    assert await till.totals() == {
        DIME.window: (1, 20_000),
        hourly.window: (1 + kept, 20_000 + microusd),
    }
    await till.at(HOUR + MINUTE)
    assert await till.totals() == {DIME.window: (0, 0), hourly.window: (0, 0)}


async def test_scopes_are_counted_apart(till: Till) -> None:
    limits = [
        Limit("all", "global", MINUTE, 4, None),
        Limit("backfill", "source:backfill", MINUTE, 1, None),
        Limit("heroes", "type:hero", HOUR, 2, None),
    ]
    await till.apply(*limits)
    assert await till.buy(Purchase("backfill", "hero", 10))
    assert not await till.buy(Purchase("backfill", "listing", 10))
    assert await till.buy(Purchase("live", "hero", 10))
    assert not await till.buy(Purchase("api", "hero", 10))
    assert await till.buy(Purchase("live", "listing", 10))
    assert [await till.counted(limit) for limit in limits] == [(3, 30), (1, 10), (2, 20)]
    assert await till.totals() == {
        ("global", MINUTE): (3, 30),
        ("source:backfill", MINUTE): (1, 10),
        ("type:hero", HOUR): (2, 20),
    }


async def test_a_clock_that_is_set_back_opens_no_window(till: Till) -> None:
    """The machine's clock is a day behind the ledger here, as after a wrong time was put right."""
    await till.apply(THREE)
    for _ in range(3):
        assert await till.buy(listing(1))
    assert not await till.buy(listing(1))
    async with till.engine.begin() as connection:
        assert await ledger.now(connection) == till.start
        assert await ledger.lock(connection) == till.start


async def test_who_waited_for_the_ledger_comes_after_whom_it_waited_for(
    engine: AsyncEngine,
) -> None:
    async with engine.begin() as first, engine.begin() as second:
        await second.execute(text("SELECT 1"))  # its transaction has begun: now() stands still
        earlier = await ledger.lock(first)
        waiting = asyncio.create_task(ledger.lock(second))
        await until_waiting(engine, 1)
        released = (await first.execute(text("SELECT clock_timestamp()"))).scalar_one()
        await first.commit()
        assert earlier < released < await waiting


async def test_a_new_limit_counts_what_was_bought_before_it(till: Till) -> None:
    await till.apply(THREE)
    bought = [await till.sold(1_000, second) for second in (0, 30, 30)]
    await till.settle(bought[0], SETTLED, 600)
    await till.settle(bought[1], RELEASED, 0)
    await till.at(40)
    heroes = Limit("heroes", "type:hero", HOUR, 5, None)
    short = Limit("short", "source:live", 10, 1, None)  # exactly left by what came at 30
    longer = Limit("longer", "type:listing", 11, 1, None)
    await till.apply(DIME, heroes, short, longer)
    assert await till.totals() == {
        ("global", MINUTE): (2, 1_600),
        ("type:hero", HOUR): (0, 0),
        ("source:live", 10): (0, 0),
        ("type:listing", 11): (1, 1_000),
    }
    assert not await till.buy(listing(1), 41 + JUST_BEFORE)
    assert await till.buy(listing(1), 41)


async def test_a_window_without_a_limit_goes(till: Till) -> None:
    await till.apply(THREE, Limit("heroes", "type:hero", HOUR, 5, None))
    await till.sold(1, 0)
    await till.apply(DIME)
    assert await till.windows() == {DIME.window}
    await till.apply()
    assert await till.windows() == set()
    assert await till.buy(listing(10**12))  # no limit: nothing is refused, and all is written down
    await till.apply(THREE)
    assert await till.totals() == {THREE.window: (2, 10**12 + 1)}


async def test_a_limit_that_reaches_behind_the_kept_history_is_refused(till: Till) -> None:
    await till.apply(THREE)
    await till.sold(1, 0)
    await till.keep_history_from(-HOUR)
    kept_from = till.time(-HOUR).strftime("%Y-%m-%d %H:%M:%S UTC")
    with pytest.raises(LimitsRefused, match=f"3601 seconds .* kept from {kept_from}"):
        await till.apply(Limit("long", "global", HOUR + 1, 5, None))
    assert await till.windows() == {THREE.window}
    assert await till.totals() == {THREE.window: (1, 1)}
    await till.apply(Limit("hourly", "global", HOUR, 5, None))
    assert await till.totals() == {("global", HOUR): (1, 1)}


async def test_a_batch_that_cannot_be_written_reserves_nothing(till: Till) -> None:
    await till.apply(DIME)
    taken = await till.sold(10, 0)
    with pytest.raises(IntegrityError):
        await till.reserve(listing(10), uuid4(), taken)
    assert await till.totals() == {DIME.window: (1, 10)}


@pytest.mark.parametrize(
    ("limit", "fits"),
    [
        (Limit("requests", "global", DAY, 37, None), 37),
        (Limit("dollars", "type:listing", DAY, None, 37 * 7_000 + 6_999), 37),
    ],
    ids=["requests", "micro-dollars"],
)
async def test_200_at_once_from_two_processes_buy_exactly_the_cap(
    engine: AsyncEngine, database_url: str, limit: Limit, fits: int
) -> None:
    async with engine.begin() as connection:
        await ledger.apply_limits(connection, [limit])
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        async with engine.begin() as connection:
            await ledger.lock(connection)
            shoppers = [processes.submit(go_shopping, database_url) for _ in range(2)]
            await until_waiting(engine, 20)  # all stand before the till; now it opens
        bought = [await asyncio.wrap_future(shopper) for shopper in shoppers]
    async with engine.begin() as connection:
        opened = await ledger.open_books(connection)
        used = await ledger.count(connection, limit, opened.now)
        assert used.amounts == (fits, fits * 7_000)
    assert sum(bought) == fits
    assert opened.books.totals == {limit.window: (fits, fits * 7_000)}


def go_shopping(url: str) -> int:
    """Try 100 purchases over ten connections, in a process of its own; returns how many went."""

    async def shop() -> int:
        engine = create_engine(url, pool_size=10)
        till = Till(engine, datetime.now(UTC))
        bought = await asyncio.gather(*(till.buy(listing(7_000)) for _ in range(100)))
        await engine.dispose()
        return len([id_ for id_ in bought if id_])

    return asyncio.run(shop())


async def until_waiting(engine: AsyncEngine, connections: int) -> None:
    """Return when so many connections to this database wait for a lock."""
    blocked = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(60), engine.connect() as connection:
        while (await connection.execute(blocked)).scalar_one() < connections:
            await connection.rollback()  # activity is read once per transaction
            await asyncio.sleep(0.01)


@dataclass
class Entry:
    """A purchase as the random walk remembers it."""

    second: float
    purchase: Purchase
    requests: int
    microusd: int
    final: bool = False


def remembered(entries: Sequence[Entry], window: Window, now: float) -> tuple[int, int]:
    """A window's totals by the definition: what was bought less than its span ago."""
    scope, span = window
    held = [e for e in entries if scope in e.purchase.scopes and now < e.second + span]
    return sum(e.requests for e in held), sum(e.microusd for e in held)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_after_anything_the_windows_hold_what_the_definition_says(
    till: Till, seed: int
) -> None:
    chance = random.Random(seed)
    choices = [
        Limit("busy", "global", 8, 6, None),
        Limit("poor", "global", 20, None, 500),
        Limit("both", "global", 20, 12, 700),
        Limit("backfill", "source:backfill", 8, 3, 200),
        Limit("heroes", "type:hero", 30, 4, None),
    ]
    limits = choices
    await till.apply(*limits)
    entries: dict[UUID, Entry] = {}
    now = 0.0
    for _ in range(150):
        now += chance.choice([0, 0.5, 1, 4])
        await till.at(now)
        unsettled = [id_ for id_, entry in entries.items() if not entry.final]
        match chance.choice(["buy", "buy", "buy", "settle", "settle", "apply"]):
            case "settle" if unsettled:
                id_ = chance.choice(unsettled)
                state = chance.choice([SETTLED, RELEASED, UNKNOWN])
                microusd = 0 if state is RELEASED else chance.randrange(150)
                await till.settle(id_, state, microusd)
                entries[id_].requests = 0 if state is RELEASED else 1
                entries[id_].microusd = microusd
                entries[id_].final = state is not UNKNOWN
            case "apply" if chance.random() < 0.3:
                limits = chance.sample(choices, k=chance.randint(1, len(choices)))
                await till.apply(*limits)
            case _:
                source, kind = chance.choice(["live", "backfill"]), chance.choice(["hero", "news"])
                purchase = Purchase(source, kind, chance.randrange(100))
                fits = all(
                    limit.has_room(
                        *remembered([*entries.values()], limit.window, now), purchase.microusd
                    )
                    for limit in limits
                    if limit.scope in purchase.scopes
                )
                bought = await till.buy(purchase)
                assert bool(bought) is fits
                if bought:
                    entries[bought] = Entry(now, purchase, 1, purchase.microusd)
        if chance.random() < 0.5:  # else the windows fall behind
            assert await till.totals() == {
                limit.window: remembered([*entries.values()], limit.window, now) for limit in limits
            }
