"""The relay: publishes what is in the outbox and marks it once the broker has acknowledged."""

import asyncio
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline import metrics, outbox
from pipeline.faultpoints import reach
from pipeline.messages import Message
from pipeline.rules.retries import doubled

log = structlog.get_logger()

FIRST_PAUSE = 0.5  # seconds between tries while the broker is away, doubling
LONGEST_PAUSE = 10.0
START_WITHIN = 40.0  # seconds, for several bootstrap servers
ANSWER_WITHIN = 25.0  # seconds, well above the client's own time-out of a request
CLOSE_WITHIN = 10.0  # seconds


class Relay:
    """Publishes with acks=all, at least once; message ids are fixed, so repetitions are known."""

    def __init__(
        self,
        engine: AsyncEngine,
        producer_options: dict[str, Any],
        *,
        poll_interval: float,
        batch: int = 500,
    ) -> None:
        self._engine = engine
        self._producer_options = producer_options
        self._poll_interval = poll_interval
        self._batch = batch
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failures = 0

    @property
    def wake(self) -> asyncio.Event:
        """Set it when something has been written into the outbox."""
        return self._wake

    def stop(self) -> None:
        """Publish what there is and end."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Publish until stopped. A broker or a database that is away is waited for."""
        while (producer := await self._connect()) is not None:
            try:
                if await self._publish(producer):
                    return
            finally:
                await _close(producer)

    async def _publish(self, producer: AIOKafkaProducer) -> bool:
        """Publish until stopped (True), or until the producer is no good any more (False)."""
        while True:
            self._wake.clear()
            published = await self._try_step(producer)
            if published is None:
                return False
            if self._stopping.is_set() and not published:
                return True
            if published < self._batch and not self._stopping.is_set():
                await _wait(self._wake, self._poll_interval)

    async def step(self, producer: AIOKafkaProducer) -> int:
        """Publish one batch; returns how many messages were acknowledged and marked."""
        async with self._engine.begin() as connection:
            due = await outbox.take(connection, limit=self._batch)
            if not due:
                return 0
            reach("publish.before")
            sent = [await _send(producer, out.message) for out in due]
            answers = await asyncio.gather(*sent, return_exceptions=True)
            refused = [answer for answer in answers if isinstance(answer, BaseException)]
            acknowledged = [
                out.id
                for out, answer in zip(due, answers, strict=True)
                if not isinstance(answer, BaseException)
            ]
            reach("publish.after")
            await outbox.mark(connection, acknowledged)
            reach("mark.before_commit")
        reach("mark.after_commit")
        marked = set(acknowledged)
        for out in due:
            if out.id in marked:
                metrics.OUTCOMES.labels(out.message.topic).inc()
                metrics.PUBLISH_LAG.observe(metrics.since(out.created_at))
        if refused:
            raise refused[0]
        return len(acknowledged)

    async def _try_step(self, producer: AIOKafkaProducer) -> int | None:
        """How much was published; None when it failed in a way that calls for a new producer."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                published = await self.step(producer)
        except KafkaError as error:
            await self._away("broker", error)
            return 0
        except SQLAlchemyError as error:
            await self._away("database", error)
            return 0
        except Exception as error:  # of whatever kind: a relay that ends stays ended
            log.warning("publishing failed, trying with a new producer", error=repr(error))
            await self._away("broker", error)
            return None
        if self._failures:
            log.info("publishing again", failures=self._failures)
            self._failures = 0
        return published

    async def _connect(self) -> AIOKafkaProducer | None:
        while not self._stopping.is_set():
            producer = AIOKafkaProducer(**self._producer_options)
            try:
                async with asyncio.timeout(START_WITHIN):
                    await producer.start()
            except Exception as error:  # a client that cannot start says so in many ways
                await _close(producer)
                await self._away("broker", error)
            else:
                return producer
        return None

    async def _away(self, who: str, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning(f"{who} is away, outcomes wait in the outbox", error=str(error))
        pause = doubled(FIRST_PAUSE, self._failures - 1, longest=LONGEST_PAUSE)
        await _wait(self._stopping, pause)  # and not for `wake`: more work brings nobody back


async def _close(producer: AIOKafkaProducer) -> None:
    """What was not acknowledged is sent again by the next one: nobody need wait for it."""
    try:
        async with asyncio.timeout(CLOSE_WITHIN):
            await producer.stop()
    except TimeoutError:
        log.warning("a producer did not close in time")


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, but no longer."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


async def _send(producer: AIOKafkaProducer, message: Message) -> asyncio.Future[Any]:
    """The future of the broker's answer; a refusal to send at all is an answer, too."""
    try:
        sent: asyncio.Future[Any] = await producer.send(
            message.topic,
            value=message.value,
            key=message.key,
            headers=list(message.headers),
        )
    except Exception as error:  # a client whose metadata is not complete yet fails oddly
        sent = asyncio.get_running_loop().create_future()
        sent.set_exception(error)
    return sent
