"""`imagepipe publish`."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TextIO
from uuid import uuid4

import typer
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from pipeline import topics
from pipeline.events import Record, Undecodable, decode
from pipeline.messages import Message
from pipeline.settings import Settings, load
from schemas.wire import rfc3339

SOURCE = "urn:imagepipe:publish"
TYPE = "imagepipe.entity-created.v1"
AHEAD = 1_000_000
"""Bytes published ahead of the workers on the embedded broker, which forgets what is too much."""


def publish(
    file: Annotated[Path, typer.Argument(help="JSON lines; - reads standard input.")],
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Publish wrong lines, too (as dead letters).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts for a script.")] = False,
) -> None:
    """Publish entity-created events from JSON lines: request data, or whole CloudEvents.

    A line of mere data gets a new event id. A wrong line is named and left out, the others are
    published, and the exit code is 1.

    Example: imagepipe publish events.jsonl
    """
    settings = load()
    settings.require("kafka_bootstrap_servers")
    topics.ensure(settings)
    publisher = Publisher(settings)
    refused = 0
    with _open(file) as lines, _progress() as progress:
        task = progress.add_task("published", total=None)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                message = event_of(line, settings.topic_entity_created)
            except Undecodable as error:
                typer.echo(f"imagepipe: {file}:{number}: {error.message}", err=True)
                refused += 1
                if not unchecked:
                    continue
                message = Message(settings.topic_entity_created, None, line.encode(), ())
            publisher.send(message)
            progress.advance(task)
        publisher.finish()
    if as_json:
        typer.echo(json.dumps({"published": publisher.sent, "wrong": refused}))
    else:
        typer.echo(f"{publisher.sent} published, {refused} wrong")
    if refused:
        raise typer.Exit(1)


def _open(file: Path) -> TextIO:
    if str(file) == "-":
        return sys.stdin
    try:
        return file.open(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}") from None


def _progress() -> Progress:
    columns = SpinnerColumn(), TextColumn("{task.completed} {task.description}")
    return Progress(*columns, console=Console(stderr=True), transient=True)


def event_of(line: str, topic: str) -> Message:
    """The record for one line; raises `Undecodable` for a line that is no event."""
    value = line.strip().encode("utf-8", "surrogateescape")
    event = decode(Record(topic, 0, 0, 0, None, value, ()))
    entity = event.request.upload.entity
    assert entity is not None
    key = entity.key.encode()
    if _is_cloud_event(value):
        headers: tuple[tuple[str, bytes], ...] = (
            ("content-type", b"application/cloudevents+json"),
        )
        return Message(topic, key, value, headers)
    return Message(topic, key, value, _attributes(entity.key))


def _is_cloud_event(value: bytes) -> bool:
    parsed: dict[str, Any] = json.loads(value)
    return "specversion" in parsed


def _attributes(subject: str) -> tuple[tuple[str, bytes], ...]:
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": str(uuid4()),
        "ce_source": SOURCE,
        "ce_type": TYPE,
        "ce_subject": subject,
        "ce_time": rfc3339(datetime.now(UTC)),
        "content-type": "application/json",
    }
    return tuple((name, text.encode()) for name, text in attributes.items())


class Publisher:
    """Sends records with acks=all, and counts those the broker has acknowledged."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = KafkaProducer(
            **topics.client_options(settings), acks="all", linger_ms=20, retries=10
        )
        self._unanswered: list[Any] = []
        self._bytes = 0
        self.sent = 0

    def send(self, message: Message) -> None:
        """Send one record; raises kafka-python's `KafkaError` when the broker refuses any."""
        self._unanswered.append(
            self._producer.send(
                message.topic,
                value=message.value,
                key=message.key,
                headers=list(message.headers),
            )
        )
        self._bytes += len(message.value or b"")
        if self._bytes > AHEAD or len(self._unanswered) >= 1000:
            self.settle()

    def finish(self) -> None:
        """Wait for the last acknowledgements."""
        self.settle()
        self._producer.close()

    def settle(self) -> None:
        """Wait until the broker has acknowledged all that was sent."""
        self._producer.flush()
        for answer in self._unanswered:
            answer.get(timeout=60)
        self.sent += len(self._unanswered)
        self._unanswered.clear()
        if self._settings.embedded_broker and self._bytes > AHEAD:
            wait_until_consumed(self._settings)
        self._bytes = 0


def wait_until_consumed(settings: Settings) -> None:
    """Wait until the workers' group has committed everything published so far."""
    consumer = KafkaConsumer(
        **topics.client_options(settings),
        group_id=settings.kafka_group,
        enable_auto_commit=False,
    )
    try:
        for _ in _until_caught_up(consumer, settings.topic_entity_created):
            consumer.poll(timeout_ms=200, max_records=1)
    finally:
        consumer.close(autocommit=False)


def _until_caught_up(consumer: Any, topic: str) -> Iterator[None]:
    partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
    ends = consumer.end_offsets(partitions)
    while any((consumer.committed(p) or 0) < end for p, end in ends.items()):
        yield
