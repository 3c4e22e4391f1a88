"""Loop 1: `entity-created` events, in batches, into PostgreSQL.

A batch is whatever has arrived while the one before was being recorded: one event when it is
quiet, `batch_size` at most when there is much. The next batch is read and made ready while
PostgreSQL works on this one. Acknowledged is what is durable, in order and nothing else: no
exception leaves the agent, and nothing slow happens here.
"""

import asyncio
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Any

from faust.types import EventT

from pipeline.batches import Understood
from pipeline.dead_letters import DeadLetter
from pipeline.events import Record
from pipeline.wiring import Worker


def intake(worker: Worker, batch_size: int) -> Callable[[Any], AsyncIterable[None]]:
    """The agent's function for one worker: it takes a `faust.Stream` of raw values."""

    async def take(stream: Any) -> AsyncIterable[None]:
        stream = stream.noack()
        recording: asyncio.Task[None] | None = None
        async for first in stream.events():
            events = [first, *arrived(stream, batch_size - 1)]
            read = [worker.intake.read(record_of(event)) for event in events]
            before, recording = recording, asyncio.create_task(record(worker, stream, events, read))
            if before is not None:
                await before
            yield None

    return take


async def record(
    worker: Worker, stream: Any, events: Sequence[Any], read: Sequence[Understood | DeadLetter]
) -> None:
    """Make a batch durable, however long it takes, then acknowledge it."""
    recorded = await worker.intake.record(read)
    for event in events:
        await stream.ack(event)
    if recorded.waiting:
        worker.generator.wake()
    worker.relay.wake.set()


def arrived(stream: Any, limit: int) -> list[Any]:
    """The events that wait in the stream's buffer already, without the time that Faust takes to
    hand over each; as there, those of a partition that has gone to another worker are left out."""
    queue, app = stream.channel.queue, stream.app
    found: list[Any] = []
    while len(found) < limit and not queue.empty() and app.flow_control.is_active():
        event = queue.get_nowait()
        message = event.message
        if message.generation_id == app.consumer_generation_id:
            message.tracked = True
            app.consumer.track_message(message)
            found.append(event)
    return found


def record_of(event: EventT[bytes]) -> Record:
    """The raw record behind a Faust event."""
    message = event.message
    headers = message.headers
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=int(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=tuple(headers.items() if isinstance(headers, Mapping) else headers or ()),
    )
