"""A backfill: the entities of a source that have no picture, asked for through intake with low
priority and their share of each window; workers make the pictures."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pipeline import intake, notices
from pipeline.answers import Topics
from pipeline.database import transact
from pipeline.planning import ENTERED, Fate, History, Plan, Planned, Planner, seconds_needed
from pipeline.preparation import Prepared
from pipeline.sources import Found

BATCH = 500  # entities in one transaction
LOOK_AFTER = 0.5  # seconds between looks at what is under way
STILL = 60.0  # seconds without any change: nobody works


@dataclass(frozen=True, slots=True)
class Caps:
    """Where to stop entering: after so many purchases, or so much (micro-dollars, upper bounds)."""

    purchases: int | None = None
    microusd: int | None = None

    def allow(self, purchases: int, microusd: int) -> bool:
        return (self.purchases is None or purchases <= self.purchases) and (
            self.microusd is None or microusd <= self.microusd
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The requests of a source, in this run and before: by state, and what was paid for them."""

    hits: int  # answered for nothing
    generated: int
    failed: int
    waiting: int
    parked: int  # of those that wait: told to wait for a limit
    microusd: int

    @property
    def finished(self) -> int:
        return self.hits + self.generated + self.failed


@dataclass(slots=True)
class Progress:
    """Where a run stands. `capped`: entities left out because of `Caps`; `seconds_blocked`: until
    the limits have let through what waits to be bought (None: never)."""

    plan: Plan = field(default_factory=Plan)
    entered: int = 0
    capped: int = 0
    reading: bool = True
    outcome: Outcome = Outcome(0, 0, 0, 0, 0, 0)
    seconds_blocked: float | None = 0.0


class Backfill:
    """One run over a source. `stop` makes it end after the batch in hand."""

    def __init__(
        self,
        engine: AsyncEngine,
        planner: Planner,
        topics: Topics,
        *,
        trial: bool,
        caps: Caps,
        wanted: Callable[[Prepared], bool],
        still: float = STILL,
    ) -> None:
        """`still`: seconds without any change after which nobody is believed to work."""
        self._engine = engine
        self._planner = planner
        self._topics = topics
        self._trial = trial
        self._caps = caps
        self._wanted = wanted
        self._still = still
        self.stop = asyncio.Event()
        self.progress = Progress()

    async def run(self, batches: Iterator[list[Found]], *, wait: bool) -> AsyncIterator[Progress]:
        """Enter everything, then watch until all is finished, or all that is left is parked
        (`wait`: until all is finished). Yields the progress, again and again."""
        async with self._engine.connect() as connection:
            history = await History.read(connection)
        while not self.stop.is_set():
            batch = await asyncio.to_thread(next, batches, None)
            if batch is None:
                break
            await self._enter(batch, history)
            await self._look()
            yield self.progress
        self.progress.reading = False
        await self._look()
        async for progress in self._watch(wait=wait):
            yield progress

    async def _enter(self, batch: Sequence[Found], history: History) -> None:
        async with self._engine.connect() as connection:
            planned = await self._planner.plan(connection, batch)
        chosen: list[Prepared] = []
        plan = self.progress.plan
        for one in planned:
            if one.prepared is not None and not self._wanted(one.prepared):
                continue
            if self._is_beyond_the_caps(one):
                self.progress.capped += 1
                continue
            plan.add(one, history.expected(one.prepared) if one.prepared else 0)
            if one.fate in ENTERED and one.prepared is not None:
                chosen.append(one.prepared)

        async def record(connection: AsyncConnection) -> None:
            await intake.record(connection, chosen, topics=self._topics, trial=self._trial)
            await notices.tell_queued(connection)

        if chosen:
            await transact(self._engine, record)
            self.progress.entered += len(chosen)

    def _is_beyond_the_caps(self, planned: Planned) -> bool:
        """Of what costs nothing nothing is left out, but a join whose purchase was left out."""
        plan = self.progress.plan
        if planned.fate is Fate.GENERATE and planned.prepared is not None:
            purchases = plan.fates[Fate.GENERATE] + 1
            return not self._caps.allow(purchases, plan.bound + planned.prepared.bound_microusd)
        return planned.fate is Fate.JOIN and self.progress.capped > 0

    async def _look(self) -> None:
        async with self._engine.connect() as connection:
            self.progress.outcome = await read_outcome(connection, self._planner.event_source)
            if not self.progress.reading:
                queued = await read_queued(connection, self._planner.event_source)
                self.progress.seconds_blocked = await seconds_needed(connection, *queued)

    async def _watch(self, *, wait: bool) -> AsyncIterator[Progress]:
        before, since = self.progress.outcome, time.monotonic()
        yield self.progress
        while self.progress.outcome.waiting and not self.stop.is_set():
            outcome = self.progress.outcome
            if not wait and (
                outcome.parked == outcome.waiting or time.monotonic() - since > self._still
            ):
                return
            try:
                async with asyncio.timeout(LOOK_AFTER):
                    await self.stop.wait()
            except TimeoutError:
                pass
            await self._look()
            if self.progress.outcome != before:
                before, since = self.progress.outcome, time.monotonic()
            yield self.progress


async def read_queued(
    connection: AsyncConnection, event_source: str
) -> tuple[Counter[str], Counter[str]]:
    """What a source still has to buy: pictures, and their upper bounds in micro-dollars, by
    request type."""
    rows = await connection.execute(
        text("""
            SELECT j.type, count(*) AS pictures, CAST(sum(j.bound_microusd) AS bigint) AS microusd
            FROM imagepipe.requests r JOIN imagepipe.jobs j ON j.id = r.id
            WHERE r.source = 'backfill' AND r.event_source = :source AND j.state = 'queued'
            GROUP BY j.type
        """),
        {"source": event_source},
    )
    found = rows.all()
    return (
        Counter({row.type: row.pictures for row in found}),
        Counter({row.type: row.microusd for row in found}),
    )


async def read_outcome(connection: AsyncConnection, event_source: str) -> Outcome:
    """What has become of a source's requests so far."""
    row = (
        await connection.execute(
            text("""
                SELECT count(*) FILTER (WHERE state = 'ready' AND cached) AS hits,
                       count(*) FILTER (WHERE state = 'ready' AND NOT cached) AS generated,
                       count(*) FILTER (WHERE state = 'failed') AS failed,
                       count(*) FILTER (WHERE state = 'waiting') AS waiting,
                       count(*) FILTER (WHERE state = 'waiting' AND deferred_at IS NOT NULL)
                           AS parked,
                       (SELECT CAST(coalesce(sum(a.cost_microusd), 0) AS bigint)
                        FROM imagepipe.requests r JOIN imagepipe.attempts a ON a.job_id = r.id
                        WHERE r.source = 'backfill' AND r.event_source = :source
                          AND a.state = 'bought') AS microusd
                FROM imagepipe.requests
                WHERE source = 'backfill' AND event_source = :source
            """),
            {"source": event_source},
        )
    ).one()
    return Outcome(*row)
