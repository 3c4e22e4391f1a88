"""The attack: events published at a steady pace while workers are killed and frozen, and the
broker and the database restarted."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from pipeline import topics
from pipeline.faultpoints import POINTS
from tests.chaos.plan import Event, Plan
from tests.chaos.stage import LEASE, STOPS, Stage
from tests.chaos.worker import Worker

EVENTS_PER_SECOND = 0.8
LOOK_AGAIN = 0.1  # seconds
LONGEST_START = 40.0  # seconds: a worker that is not ready by then is killed all the same
FROZEN = (LEASE + 1, LEASE + 10)  # seconds: longer than any lease
WITH_BYTES = "generate.after_call"  # frozen here, a worker comes late with a paid picture
AWAY = (0.5, 5.0)  # seconds without broker or database
KILLS_PER_RESTART = 13
HOPELESS = 10  # workers that ended by themselves: no need to go on
RANDOMLY = "at random"  # instead of at a fault point

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fate:
    """What is in store for one worker: death or frost at a point, or death when it has been ready
    for `life` seconds, perhaps after a frost."""

    point: str
    times: int
    freezes_there: bool
    life: float
    freezes_at_last: bool
    frost: float  # seconds

    @property
    def fault(self) -> str:
        return f"{self.point}:{self.times}{':stop' if self.freezes_there else ''}"


@dataclass(slots=True)
class Casualties:
    """What was done: deaths and frosts by fault point (or at random), restarts by kind."""

    kills: Counter[str] = field(default_factory=Counter)
    frosts: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)  # workers that ended by themselves


class Attack:
    """`kills` of workers within `seconds`, then it is over; all that is drawn follows the seed."""

    def __init__(
        self, stage: Stage, *, seed: int, kills: int, seconds: float, workers: int, tell: Tell
    ) -> None:
        self._stage = stage
        self._seed = seed
        self._kills = kills
        self._workers = workers
        self._tell = tell
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._fates = Random(f"{seed}/fates")
        self._armed: Counter[str] = Counter()
        self.casualties = Casualties()
        self.published: list[Event] = []

    @property
    def over(self) -> bool:
        done = self.casualties
        enough = done.kills.total() >= self._kills or len(done.unexpected) >= HOPELESS
        return enough or time.monotonic() > self._deadline

    async def run(self) -> None:
        """Attack until it is over; when this returns every worker is dead, every event published
        and broker and database are up."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish())
            group.create_task(self._restart())
            for _ in range(self._workers):
                group.create_task(self._keep_killing())

    async def _publish(self) -> None:
        """Events at a steady pace; whatever the broker has not acknowledged is sent again."""
        producer = await asyncio.to_thread(_producer, self._stage)
        sent: list[tuple[Event, Any]] = []
        try:
            for event in Plan(self._seed):
                if self.over:
                    break
                for fault in event.faults:
                    self._stage.sandbox.faults.add(fault)
                self.published.append(event)
                sent.append((event, await asyncio.to_thread(self._send, producer, event)))
                await asyncio.sleep(1 / EVENTS_PER_SECOND)
            for event, answer in sent:
                await asyncio.to_thread(self._insist, producer, event, answer)
        finally:
            await asyncio.to_thread(producer.close)

    def _send(self, producer: KafkaProducer, event: Event) -> Any:
        topic = self._stage.settings.topic_entity_created
        return producer.send(topic, event.value, key=event.key, headers=list(event.headers))

    def _insist(self, producer: KafkaProducer, event: Event, answer: Any) -> None:
        while True:
            try:
                answer.get(timeout=60)
                return
            except KafkaError:
                answer = self._send(producer, event)

    async def _restart(self) -> None:
        """Broker, database and connections take turns, at even distances with some jitter."""
        rng = Random(f"{self._seed}/restarts")
        restarts = 3 * max(1, round(self._kills / KILLS_PER_RESTART / 3))
        pause = self._seconds / (restarts + 1)
        for turn in range(restarts):
            if await self._passes(pause * rng.uniform(0.5, 1.0)):
                return
            seconds = rng.uniform(*AWAY)
            if turn % 3 == 0:
                kill = rng.random() < 0.7
                name = f"Kafka {'killed' if kill else 'stopped'}"
                await asyncio.to_thread(self._stage.restart_kafka, kill=kill, seconds=seconds)
            elif turn % 3 == 1:
                mode = rng.choice(list(STOPS))
                name = f"PostgreSQL stopped ({mode})"
                await asyncio.to_thread(self._stage.restart_database, mode, seconds)
            else:
                name = "connections cut"
                await asyncio.to_thread(self._stage.cut_connections)
            self.casualties.restarts[name] += 1
            self._tell(name)

    async def _passes(self, seconds: float) -> bool:
        """Wait; True when the attack was over before."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.over:
                return True
            await asyncio.sleep(LOOK_AGAIN)
        return False

    async def _keep_killing(self) -> None:
        while not self.over:
            fate = self._next_fate()
            worker = self._stage.start_worker(fate.fault)
            await self._live(worker, fate)

    def _next_fate(self) -> Fate:
        """The point with the fewest dead, then with the fewest tries, comes next."""
        rng, dead = self._fates, self.casualties.kills
        order = rng.sample(POINTS, len(POINTS))
        point = min(order, key=lambda p: (dead[p] + self._armed[p] // 2, self._armed[p]))
        self._armed[point] += 1
        mean = self._workers * self._seconds / self._kills
        return Fate(
            point,
            rng.choice((1, 1, 2, 3, 4)),
            freezes_there=rng.random() < (0.6 if point == WITH_BYTES else 0.15),
            life=max(4.0, mean * rng.uniform(0.2, 0.7)),
            freezes_at_last=rng.random() < 0.2,
            frost=rng.uniform(*FROZEN),
        )

    async def _live(self, worker: Worker, fate: Fate) -> None:
        """See a worker through to its death."""
        ends_at = time.monotonic() + LONGEST_START
        ready, freezes = False, fate.freezes_at_last
        while worker.exit_code is None:
            if not ready and worker.ready:
                ready, ends_at = True, time.monotonic() + fate.life
            if worker.frozen:
                await self._thaw(worker, fate, fate.point)
            elif freezes and ready and time.monotonic() > ends_at and not self.over:
                freezes = False
                worker.send(signal.SIGSTOP)
                await self._thaw(worker, fate, RANDOMLY)
                ends_at = time.monotonic() + LEASE / 2  # a zombie has some time to do harm
            elif self.over or time.monotonic() > ends_at:
                worker.send(signal.SIGKILL)
                await asyncio.to_thread(worker.wait, 60)
                self.casualties.kills[RANDOMLY] += 1
                return
            await asyncio.sleep(LOOK_AGAIN)
        if worker.exit_code == -signal.SIGKILL:
            self.casualties.kills[fate.point] += 1
        else:
            self.casualties.unexpected.append(f"{worker.log.name}: exit code {worker.exit_code}")

    async def _thaw(self, worker: Worker, fate: Fate, where: str) -> None:
        self.casualties.frosts[where] += 1
        await self._passes(fate.frost)
        worker.send(signal.SIGCONT)


def _producer(stage: Stage) -> KafkaProducer:
    return KafkaProducer(
        **topics.client_options(stage.settings), acks="all", enable_idempotence=True
    )
