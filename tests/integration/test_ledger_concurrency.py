"""The ledger under everybody at once: every decision right at its instant, and no deadlock.

Transactions that hold the ledger's lock have an order, that of its instants. So each writes down
when it happened and what it decided, and afterwards all decisions are looked at again, one by
one, with the ledger's definition. FUZZ_STEPS (as for the model test) makes the runs long.
"""

import asyncio
import itertools
import multiprocessing
import os
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline import audit, ledger
from pipeline.database import create_engine
from pipeline.errors import OutcomeUnknown
from pipeline.ledger import Reservation, Settlement
from pipeline.rules.lifecycle import ReservationState
from pipeline.rules.limits import Limit, Purchase
from tests.integration.builders import Steps, asked
from tests.integration.full_history import FullHistory
from tests.integration.test_ledger import until_waiting

LONG = int(os.environ.get("FUZZ_STEPS", "0")) > 0
CONNECTIONS = 64
STEPS_EACH = 80 if LONG else 8
PROCESSES, REQUESTS_EACH, CONNECTIONS_EACH = (4, 250, 20) if LONG else (2, 60, 10)

DOLLAR = Limit("dollar", "global", 86400, None, 1_000_000)
PRICES = (21_300, 33_707, 47_119)  # micro-dollars

CHOICES = (
    Limit("busy", "global", 1, 40, None),
    Limit("poor", "global", 2, None, 9_000),
    Limit("both", "global", 2, 70, 11_000),
    Limit("backfill", "source:backfill", 1, 12, 3_000),
    Limit("heroes", "type:hero", 3, 25, None),
    Limit("no heroes", "type:hero", 1, 0, None),
)

Decision = Callable[[FullHistory, datetime], None]


@dataclass
class Crowd:
    """Everybody who uses one ledger, and what they did, each with its instant."""

    engine: AsyncEngine
    chance: random.Random
    held: list[Reservation] = field(default_factory=list)
    decisions: list[tuple[datetime, Decision]] = field(default_factory=list)
    bought: int = 0
    refused: int = 0

    async def person(self, steps: int) -> None:
        acts = [self.buy] * 6 + [self.settle] * 4 + [self.change_limits, self.look, self.check]
        for act in self.chance.choices(acts, k=steps):
            await act()

    async def buy(self) -> None:
        """A few purchases in one transaction, as far as there is room."""
        batch = [
            Purchase(
                self.chance.choice(["live", "backfill"]),
                self.chance.choice(["listing", "hero"]),
                self.chance.randrange(400),
            )
            for _ in range(self.chance.choice([1, 1, 1, 5]))
        ]
        answers: list[tuple[Reservation, bool]] = []
        async with self.engine.begin() as connection:
            opened = await ledger.open_books(connection)
            for purchase in batch:
                fits = not opened.books.blocking(purchase)
                if fits:
                    opened.books.take(purchase)
                answers.append((Reservation(uuid4(), purchase, "model"), fits))
            admitted = [reservation for reservation, fits in answers if fits]
            await ledger.reserve(connection, opened.now, admitted)
        self.held += admitted
        self.bought += len(admitted)
        self.refused += len(answers) - len(admitted)

        def replay(history: FullHistory, now: datetime) -> None:
            for reservation, fits in answers:
                assert history.fits(reservation.purchase, now) == fits, reservation
                if fits:
                    history.reserve(reservation.id, reservation.purchase, now)

        self.decisions.append((opened.now, replay))

    async def settle(self) -> None:
        """One or two calls end; now and then two people end the same call."""
        chosen = self.chance.sample(self.held, min(len(self.held), 2))
        settlements = [self._end(reservation) for reservation in chosen]
        for reservation in chosen:
            if self.chance.random() < 0.8:
                self.held.remove(reservation)
        async with self.engine.begin() as connection:
            await ledger.settle(connection, settlements)
            now = await ledger.lock(connection)  # held since before the settlement

        def replay(history: FullHistory, _: datetime) -> None:
            for settlement in settlements:
                history.settle(settlement.id, settlement.state, settlement.microusd)

        self.decisions.append((now, replay))

    def _end(self, reservation: Reservation) -> Settlement:
        bound = reservation.purchase.microusd
        state, microusd = self.chance.choice(
            [
                (ReservationState.SETTLED, bound // 2),
                (ReservationState.SETTLED, bound + 50),
                (ReservationState.RELEASED, 0),
                (ReservationState.UNKNOWN, bound),
            ]
        )
        return Settlement(reservation.id, state, microusd)

    async def change_limits(self) -> None:
        limits = tuple(limit for limit in CHOICES if self.chance.random() < 0.6)
        async with self.engine.begin() as connection:
            await ledger.apply_limits(connection, limits)
            now = await ledger.lock(connection)

        def replay(history: FullHistory, _: datetime) -> None:
            history.limits = limits

        self.decisions.append((now, replay))

    async def look(self) -> None:
        """What status and deferral do, without the lock."""
        async with self.engine.begin() as connection:
            now = await ledger.now(connection)
            for limit in await ledger.read_limits(connection):
                await ledger.count(connection, limit, now)
            books = await ledger.read_books(connection)
            purchase = Purchase("live", "hero", 100)
            await ledger.room_for(connection, books.blocking(purchase), purchase, now)

    async def check(self) -> None:
        async with self.engine.begin() as connection:
            assert await audit.windows(connection) == []

    def look_again(self) -> FullHistory:
        """Take every decision once more, in the order in which they were taken."""
        history = FullHistory()
        for now, replay in sorted(self.decisions, key=lambda decision: decision[0]):
            replay(history, now)
        return history


@pytest.fixture
async def wide_engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Room for 64 transactions at a time."""
    engine = create_engine(database_url, pool_size=CONNECTIONS)
    yield engine
    await engine.dispose()


async def test_64_connections_at_once_decide_as_if_one_by_one(wide_engine: AsyncEngine) -> None:
    crowd = Crowd(wide_engine, random.Random(64))
    await crowd.change_limits()
    await asyncio.gather(*(crowd.person(STEPS_EACH) for _ in range(CONNECTIONS)))
    await crowd.check()
    history = crowd.look_again()
    async with wide_engine.begin() as connection:
        rows = await connection.execute(
            text("SELECT id, at, state, requests, microusd FROM imagepipe.reservations")
        )
        written = {row.id: tuple(row)[1:] for row in rows}
    assert written == {
        id_: (entry.at, entry.state, entry.requests, entry.microusd)
        for id_, entry in history.entries.items()
    }
    assert crowd.bought > CONNECTIONS  # it was no walk-over,
    assert crowd.refused > CONNECTIONS  # neither way


async def test_64_connections_with_everything_that_reserves_or_settles_do_not_deadlock(
    wide_engine: AsyncEngine,
) -> None:
    """Requests, claims, failures, pictures and new limits, on few distinct pictures."""
    steps, chance, numbers = Steps(wide_engine), random.Random(64), itertools.count()

    async def ask() -> None:
        await steps.ask(asked(f"event-{next(numbers)}", f"House {chance.randrange(24)}"))

    async def work() -> None:
        claim = await steps.claim(slots=2)
        await steps.defer(claim.heads)
        for claimed in claim.claimed:
            if chance.random() < 0.3:
                await steps.fail(claimed, OutcomeUnknown("timeout", "no answer"))
            else:
                await steps.keep(claimed)
                await steps.complete(claimed.job_id)

    async def change_limits() -> None:
        await steps.limit(*(limit for limit in CHOICES if chance.random() < 0.5))

    async def person() -> None:
        for act in chance.choices([ask, work, change_limits], [4, 5, 1], k=STEPS_EACH):
            await act()

    await asyncio.gather(*(person() for _ in range(CONNECTIONS)))
    async with wide_engine.begin() as connection:
        assert await audit.windows(connection) == []
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == next(numbers)
    assert await steps.value("SELECT count(*) > 0 FROM imagepipe.attempts")


async def test_a_dollar_is_used_up_and_not_exceeded_by_a_micro_dollar(
    engine: AsyncEngine, database_url: str
) -> None:
    async with engine.begin() as connection:
        await ledger.apply_limits(connection, [DOLLAR])
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as processes:
        async with engine.begin() as connection:
            await ledger.lock(connection)
            shoppers = [processes.submit(go_shopping, database_url) for _ in range(PROCESSES)]
            await until_waiting(engine, PROCESSES * CONNECTIONS_EACH)  # now the till opens
        spent = [await asyncio.wrap_future(shopper) for shopper in shoppers]
    async with engine.begin() as connection:
        opened = await ledger.open_books(connection)
        counted = (await ledger.count(connection, DOLLAR, opened.now)).microusd
        assert await audit.windows(connection) == []
    assert counted == sum(spent) <= 1_000_000
    assert 1_000_000 - counted < min(PRICES)
    assert opened.books.blocking(Purchase("live", "listing", min(PRICES))) == [DOLLAR]


def go_shopping(url: str) -> int:
    """Ask for many pictures at once, in a process of its own; returns the micro-dollars spent."""

    async def ask(engine: AsyncEngine, price: int) -> int:
        purchase = Purchase("live", "listing", price)
        async with engine.begin() as connection:
            opened = await ledger.open_books(connection)
            if opened.books.blocking(purchase):
                return 0
            await ledger.reserve(connection, opened.now, [Reservation(uuid4(), purchase, "model")])
        return price

    async def ask_at_once() -> int:
        engine = create_engine(url, pool_size=CONNECTIONS_EACH)
        prices = (PRICES[number % len(PRICES)] for number in range(REQUESTS_EACH))
        spent = await asyncio.gather(*(ask(engine, price) for price in prices))
        await engine.dispose()
        return sum(spent)

    return asyncio.run(ask_at_once())
