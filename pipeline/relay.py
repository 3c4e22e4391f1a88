"""The relay: publishes what is in the outbox and marks it once the broker has acknowledged."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline import metrics, outbox
from pipeline.faultpoints import reach
from pipeline.messages import Message
from pipeline.outbox import Outgoing
from pipeline.rules.retries import doubled

log = structlog.get_logger()

LOOK_AGAIN = 0.05  # seconds until a shard is asked for that another relay has held
FIRST_PAUSE = 0.5  # seconds between tries while the broker is away, doubling
LONGEST_PAUSE = 10.0
START_WITHIN = 40.0  # seconds, for several bootstrap servers
ANSWER_WITHIN = 25.0  # seconds, well above the client's own time-out of a request
CLOSE_WITHIN = 10.0  # seconds
LARGEST_MESSAGE = 1_000_000  # bytes of key and value, as brokers and clients have it by default
LARGEST_BATCH = 500_000  # bytes; a larger message has a batch of its own

_PARTITIONER = DefaultPartitioner()


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
        self._saw_all = True

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
                await _wait(self._wake, self._poll_interval if self._saw_all else LOOK_AGAIN)

    async def step(self, producer: AIOKafkaProducer) -> int:
        """Publish one batch; returns how many messages were acknowledged and marked."""
        async with self._engine.begin() as connection:
            taken = await outbox.take(connection, limit=self._batch)
            due, self._saw_all = taken.messages, taken.all_shards
            if not due:
                return 0
            reach("publish.before")
            acknowledged, refused = await publish(producer, due)
            reach("publish.after")
            await outbox.mark(connection, [out.id for out in acknowledged])
            reach("mark.before_commit")
        reach("mark.after_commit")
        metrics.count_published((out.message.topic, out.created_at) for out in acknowledged)
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
            producer = AIOKafkaProducer(**self._producer_options, max_batch_size=LARGEST_BATCH)
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


async def publish(
    producer: AIOKafkaProducer, messages: Sequence[Outgoing]
) -> tuple[list[Outgoing], list[BaseException]]:
    """Publish messages in their order; returns those that the broker has acknowledged, and what it
    said of others.

    They are put into the batches that go over the wire here, one for each partition: sent one by
    one, each would cost a future and a search for its batch.
    """
    batches = _Batches(producer)
    for out in messages:
        await batches.add(out)
    return await batches.answers()


class _Batches:
    """Batches on their way to the broker, and the messages in each."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._open: dict[tuple[str, int], tuple[BatchBuilder, list[Outgoing]]] = {}
        self._sent: list[tuple[list[Outgoing], Awaitable[object]]] = []
        self._refused: list[BaseException] = []
        self._partitions: dict[str, list[int]] = {}

    async def add(self, out: Outgoing) -> None:
        """Put a message behind those of its partition."""
        message = out.message
        try:
            size = sum(map(len, filter(None, (message.key, message.value))))
            if size > LARGEST_MESSAGE:
                raise MessageSizeTooLargeError(f"{size} bytes, {LARGEST_MESSAGE} at most")
            place = message.topic, await self._partition(message)
            while not self._append(place, out):  # it is full
                await self._send(place)
        except Exception as error:  # a client whose metadata is not complete yet fails oddly
            self._refused.append(error)

    async def answers(self) -> tuple[list[Outgoing], list[BaseException]]:
        """Send what is left, and wait for the broker."""
        for place in list(self._open):
            try:
                await self._send(place)
            except Exception as error:
                self._refused.append(error)
        said = await asyncio.gather(*(sent for _, sent in self._sent), return_exceptions=True)
        acknowledged = []
        for (messages, _), answer in zip(self._sent, said, strict=True):
            if isinstance(answer, BaseException):
                self._refused.append(answer)
            else:
                acknowledged += messages
        return acknowledged, self._refused

    async def _partition(self, message: Message) -> int:
        """Where Kafka's Java client would put the message."""
        partitions = self._partitions.get(message.topic)
        if partitions is None:
            partitions = sorted(await self._producer.partitions_for(message.topic))
            self._partitions[message.topic] = partitions
        return int(_PARTITIONER(message.key, partitions, partitions))

    def _append(self, place: tuple[str, int], out: Outgoing) -> bool:
        if place not in self._open:
            self._open[place] = self._producer.create_batch(), []
        batch, messages = self._open[place]
        message = out.message
        added = batch.append(
            timestamp=None, key=message.key, value=message.value, headers=list(message.headers)
        )
        if added is None:
            return False
        messages.append(out)
        return True

    async def _send(self, place: tuple[str, int]) -> None:
        batch, messages = self._open.pop(place)
        topic, partition = place
        sent = await self._producer.send_batch(batch, topic, partition=partition)
        self._sent.append((messages, sent))
