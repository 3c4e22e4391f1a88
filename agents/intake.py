"""Loop 1: `entity-created` events, in batches, into PostgreSQL.

The batch is acknowledged when the iterator advances, so everything is durable before that: no
exception leaves the agent (it would acknowledge what it lost), and nothing slow happens here.
"""

from collections.abc import AsyncIterable, Callable
from typing import Any

from faust.types import EventT

from pipeline.events import Record
from pipeline.wiring import Worker

BATCH_WAIT = 0.02
"""Seconds to wait for a batch to fill."""


def intake(worker: Worker, batch_size: int) -> Callable[[Any], AsyncIterable[None]]:
    """The agent's function for one worker: it takes a `faust.Stream` of raw values."""

    async def take(stream: Any) -> AsyncIterable[None]:
        async for events in stream.take_events(batch_size, within=BATCH_WAIT):
            recorded = await worker.intake.accept([record_of(event) for event in events])
            if recorded.waiting:
                worker.generator.wake()
            worker.relay.wake.set()
            yield None

    return take


def record_of(event: EventT[bytes]) -> Record:
    """The raw record behind a Faust event."""
    message = event.message
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=int(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=_headers(message.headers),
    )


def _headers(headers: object) -> tuple[tuple[str, bytes | None], ...]:
    pairs = headers.items() if isinstance(headers, dict) else headers or ()
    return tuple((name, value) for name, value in pairs)  # type: ignore[attr-defined]
