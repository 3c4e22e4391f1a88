"""The ledger against its definition: whatever happens in whatever order, every window is exact.

Hypothesis invents the steps: purchases, settlements, new limits, and what time it is. A short run
belongs to the tests; FUZZ_STEPS=50000 makes it a long one, with other steps every time.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pipeline import audit, ledger
from pipeline.database import create_engine
from pipeline.ledger import LimitsRefused, Reservation, Settlement
from pipeline.rules.lifecycle import ReservationState
from pipeline.rules.limits import Limit, Purchase
from tests.integration.full_history import FINAL, FullHistory, span

T = TypeVar("T")

FUZZ_STEPS = int(os.environ.get("FUZZ_STEPS", "0"))
STEPS_PER_STORY = 50
STORIES = 20  # in a short run
STORIES_AT_ONCE = 100  # in a long one, until it has its steps

MICROSECOND = timedelta(microseconds=1)  # the server's resolution
MILLISECOND = timedelta(milliseconds=1)

PURCHASES = st.builds(
    Purchase,
    st.sampled_from(["live", "backfill"]),
    st.sampled_from(["listing", "hero"]),
    st.integers(0, 5),  # micro-dollars: small, so that windows are often full to the last one
)
COUNTS, AMOUNTS = st.integers(0, 6), st.integers(0, 12)
WINDOWS = st.tuples(
    st.sampled_from(["global", "source:live", "source:backfill", "type:hero"]),
    st.sampled_from([1, 5, 8, 60]),
)
BOUNDS = st.one_of(
    st.tuples(COUNTS, st.none()), st.tuples(st.none(), AMOUNTS), st.tuples(COUNTS, AMOUNTS)
)
LIMITS = st.lists(st.tuples(WINDOWS, BOUNDS), max_size=5).map(
    lambda drawn: tuple(
        Limit(f"limit {number}", *window, *bounds)
        for number, (window, bounds) in enumerate(drawn, start=1)
    )
)
ENDS = st.tuples(
    st.sampled_from(
        [ReservationState.SETTLED, ReservationState.RELEASED, ReservationState.UNKNOWN]
    ),
    st.integers(0, 8),
)


@dataclass
class Stage:
    """What the stories of one run share; `steps` counts those that were run."""

    engine: AsyncEngine
    runner: asyncio.Runner
    steps: int = 0


class LedgerStory(RuleBasedStateMachine):
    """One story: a ledger and its definition go through the same steps.

    It is told in a transaction that is rolled back at its end. Its clock stands still, a day
    ahead of the machine's, except where a step moves it.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.history = FullHistory()
        self.now = datetime.now(UTC) + timedelta(days=1)
        self.kept_from = datetime.min.replace(tzinfo=UTC)
        self.connection: AsyncConnection = stage.runner.run(self._begin())
        stage.runner.run(self._set_clock(self.now))

    async def _begin(self) -> AsyncConnection:
        return await self.stage.engine.connect()

    def teardown(self) -> None:
        self.stage.runner.run(self.connection.close())

    def tell(self, step: Coroutine[Any, Any, T]) -> T:
        self.stage.steps += 1
        return self.stage.runner.run(step)

    @initialize(limits=LIMITS)
    def starts_with_limits(self, limits: tuple[Limit, ...]) -> None:
        self.tell(self._apply(limits))

    @rule(batch=st.lists(PURCHASES, min_size=1, max_size=4))
    def somebody_buys(self, batch: list[Purchase]) -> None:
        self.tell(self._buy(batch))

    @rule(purchase=PURCHASES)
    def somebody_waits_for_room(self, purchase: Purchase) -> None:
        self.tell(self._wait_for_room(purchase))

    @precondition(lambda self: self.history.entries)
    @rule(data=st.data())
    def calls_end(self, data: st.DataObject) -> None:
        """Also those that left their windows, those that are final, and several at once."""
        bought = list(self.history.entries)
        still_open = [id_ for id_ in bought if self.history.entries[id_].state not in FINAL]
        chosen = st.sampled_from(still_open + bought)
        self.tell(self._settle(data.draw(st.dictionaries(chosen, ENDS, min_size=1, max_size=3))))

    @rule(limits=LIMITS)
    def limits_change(self, limits: tuple[Limit, ...]) -> None:
        self.tell(self._apply(limits))

    @rule(seconds=st.sampled_from([0.001, 1, 4, 30]))
    def time_passes(self, seconds: float) -> None:
        self.tell(self._set_clock(self.now + timedelta(seconds=seconds)))

    @precondition(lambda self: self.history.entries and self.history.limits)
    @rule(data=st.data(), early=st.sampled_from([timedelta(0), MICROSECOND]))
    def it_is_the_edge_of_a_window(self, data: st.DataObject, early: timedelta) -> None:
        entry = data.draw(st.sampled_from(list(self.history.entries.values())))
        limit = data.draw(st.sampled_from(self.history.limits))
        self.tell(self._set_clock(max(self.now, entry.at + span(limit) - early)))

    @rule(seconds=st.sampled_from([8, 60, 100]))
    def old_history_goes(self, seconds: int) -> None:
        self.kept_from = max(self.kept_from, self.now - timedelta(seconds=seconds))
        self.tell(self._write_clock("history_from", self.kept_from))

    @invariant()
    def every_window_is_exact(self) -> None:
        self.stage.runner.run(self._compare())

    async def _buy(self, batch: list[Purchase]) -> None:
        opened = await ledger.open_books(self.connection)
        assert opened.now == self.now
        admitted: list[Reservation] = []
        for purchase in batch:
            fits = self.history.fits(purchase, self.now)
            assert fits == (not opened.books.blocking(purchase)), purchase
            if fits:
                opened.books.take(purchase)
                reservation = Reservation(uuid4(), purchase, "model")
                admitted.append(reservation)
                self.history.reserve(reservation.id, purchase, self.now)
        await ledger.reserve(self.connection, opened.now, admitted)

    async def _wait_for_room(self, purchase: Purchase) -> None:
        """At the instant that is foretold the purchase passes, a millisecond before it does not."""
        limits = self.history.limits_on(purchase)
        instant = await ledger.room_for(self.connection, limits, purchase, self.now)
        assert instant == self.history.room_at(purchase, self.now)
        if instant is not None:
            if instant > self.now:
                await self._set_clock(max(self.now, instant - MILLISECOND))
                opened = await ledger.open_books(self.connection)
                assert opened.books.blocking(purchase)
                await self._set_clock(instant)
            assert self.history.fits(purchase, instant)
        await self._buy([purchase])

    async def _settle(self, ends: dict[UUID, tuple[ReservationState, int]]) -> None:
        settlements = [
            Settlement(id_, state, 0 if state is ReservationState.RELEASED else microusd)
            for id_, (state, microusd) in ends.items()
        ]
        await ledger.settle(self.connection, settlements)
        for settlement in settlements:
            self.history.settle(settlement.id, settlement.state, settlement.microusd)

    async def _apply(self, limits: tuple[Limit, ...]) -> None:
        reaches_too_far = any(self.now - span(limit) < self.kept_from for limit in limits)
        try:
            async with self.connection.begin_nested():
                await ledger.apply_limits(self.connection, limits)
        except LimitsRefused:
            assert reaches_too_far
        else:
            assert not reaches_too_far
            self.history.limits = limits

    async def _set_clock(self, now: datetime) -> None:
        self.now = now
        await self._write_clock("instant", now)

    async def _write_clock(self, column: str, instant: datetime) -> None:
        await self.connection.execute(
            text(f"UPDATE imagepipe.ledger_clock SET {column} = :instant"), {"instant": instant}
        )

    async def _compare(self) -> None:
        assert await audit.windows(self.connection) == []
        windows = await self.connection.execute(text("SELECT * FROM imagepipe.windows"))
        totals = {(w.scope, w.span_seconds, w.upto): (w.requests, w.microusd) for w in windows}
        assert {(scope, seconds) for scope, seconds, _ in totals} == {
            limit.window for limit in self.history.limits
        }
        for (scope, _, upto), held in totals.items():
            assert held == self.history.later_than(scope, upto)


def test_after_any_story_every_window_is_exact(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with asyncio.Runner() as runner:
        stage = Stage(create_engine(database_url, pool_size=1), runner)
        tell_stories(stage, STORIES_AT_ONCE if FUZZ_STEPS else STORIES)
        while stage.steps < FUZZ_STEPS:
            tell_stories(stage, STORIES_AT_ONCE)
        runner.run(stage.engine.dispose())
    with capsys.disabled():
        sys.stdout.write(f" {stage.steps:,} steps without a counter-example ")


def tell_stories(stage: Stage, stories: int) -> None:
    """Run so many stories; a counter-example is made as short as possible and printed."""
    run_state_machine_as_test(
        lambda: LedgerStory(stage),  # type: ignore[arg-type]  # any factory will do
        settings=settings(
            max_examples=stories,
            stateful_step_count=STEPS_PER_STORY,
            derandomize=not FUZZ_STEPS,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
