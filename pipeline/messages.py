"""What is published: outcomes as CloudEvents in binary mode, and dead letters.

Ids are derived, never drawn: the same event answered again has the same ids, so consumers can
drop repetitions by (ce_source, ce_id).
"""

import json
import struct
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from uuid import UUID, uuid5

from pipeline.events import Record
from schemas.outcomes import Outcome
from schemas.request import Entity
from schemas.wire import rfc3339

OutcomeKind = Literal["ready", "failed", "deferred"]
Headers = tuple[tuple[str, bytes | None], ...]

_REQUESTS = UUID("b6a3d0f4-8d0d-4b0b-9a2b-3f1c7a54e201")
_OUTCOMES = UUID("e0c5f7a2-61b9-4d55-8f0e-7d9b2c8a6f02")


@dataclass(frozen=True, slots=True)
class Head:
    """A Kafka message without its value."""

    key: bytes
    headers: Headers


@dataclass(frozen=True, slots=True)
class Message:
    """A Kafka message to be published."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


def request_id(source: str, event_id: str) -> UUID:
    """The request of the event (source, id)."""
    return _derived(_REQUESTS, source, event_id)


def outcome_id(source: str, event_id: str, outcome: OutcomeKind, ordinal: int) -> UUID:
    """The `ordinal`-th outcome of this kind that the event (source, id) gets."""
    return _derived(_OUTCOMES, source, event_id, outcome, str(ordinal))


def _derived(namespace: UUID, *components: str) -> UUID:
    return uuid5(namespace, "\0".join(components))  # decoding refuses NUL: no two lists join alike


def outcome_head(
    kind: OutcomeKind,
    key: str,
    *,
    event_source: str,
    event_id: str,
    ordinal: int,
    occurred_at: datetime,
    traceparent: str | None,
    source: str = "urn:imagepipe",
) -> Head:
    """Key and CloudEvent attributes of a message that tells an outcome.

    `event_source`, `event_id` and `traceparent` are those of the event that is answered;
    `occurred_at` has a time zone; `source` is what `ce_source` says.
    """
    headers = {
        "ce_specversion": "1.0",
        "ce_id": str(outcome_id(event_source, event_id, kind, ordinal)),
        "ce_source": source,
        "ce_type": f"imagepipe.image-{kind}.v1",
        "ce_subject": key,
        "ce_time": rfc3339(occurred_at),
        "content-type": "application/json",
    }
    if traceparent is not None:
        headers["traceparent"] = traceparent
    return Head(key.encode(), tuple((name, text.encode()) for name, text in headers.items()))


def outcome_message(
    topic: str,
    kind: OutcomeKind,
    data: Outcome,
    *,
    ordinal: int,
    traceparent: str | None,
    source: str = "urn:imagepipe",
) -> Message:
    """The CloudEvent that tells an outcome; `source` is what `ce_source` says."""
    head = outcome_head(
        kind,
        outcome_key(data.entity, data.request_id),
        event_source=data.causation.source,
        event_id=data.causation.id,
        ordinal=ordinal,
        occurred_at=data.occurred_at,
        traceparent=traceparent,
        source=source,
    )
    return Message(topic, head.key, data.model_dump_json().encode(), head.headers)


def outcome_key(entity: Entity | None, request: UUID) -> str:
    """The key of a request's outcomes: its entity's, or its own where it names none."""
    return entity.key if entity else str(request)


def reemitted(message: Message, replay: str) -> Message:
    """An outcome told once more on purpose: the id of its own is derived from the first one and
    the replay's."""
    headers = dict(message.headers)
    first = UUID((headers["ce_id"] or b"").decode())
    headers["ce_id"] = str(uuid5(first, replay)).encode()
    headers[REPLAY_HEADER] = replay.encode()
    return replace(message, headers=tuple(headers.items()))


REPLAY_HEADER = "ce_replayid"
"""The CloudEvents extension attribute of a re-emission."""


def dead_letter(
    topic: str,
    record: Record,
    *,
    code: str,
    message: str,
    error_class: str,
    attempts: int,
    group: str,
) -> Message:
    """The record, untouched, with the reason in the headers of Spring's dead letters; they take the
    place of an earlier reason's.

    `group` is the consumer group that gave up. Integers are big-endian: the partition in four
    bytes, offset and timestamp (milliseconds) in eight. Our errors are no Java classes, so
    `exception-fqcn` says "imagepipe." and the code.
    """
    reason = (
        ("kafka_dlt-original-topic", record.topic.encode()),
        ("kafka_dlt-original-partition", struct.pack(">i", record.partition)),
        ("kafka_dlt-original-offset", struct.pack(">q", record.offset)),
        ("kafka_dlt-original-timestamp", struct.pack(">q", record.timestamp_ms)),
        ("kafka_dlt-original-consumer-group", group.encode()),
        ("kafka_dlt-exception-fqcn", f"imagepipe.{code}".encode()),
        ("kafka_dlt-exception-message", message.encode()),
        ("x-error-class", error_class.encode()),
        (ATTEMPTS_HEADER, str(attempts).encode()),
    )
    headers = tuple(pair for pair in record.headers if pair[0] not in REASON_HEADERS)
    return Message(topic, record.key, record.value, headers + reason)


ATTEMPTS_HEADER = "x-attempts"
REASON_HEADERS = frozenset(
    {
        "kafka_dlt-original-topic",
        "kafka_dlt-original-partition",
        "kafka_dlt-original-offset",
        "kafka_dlt-original-timestamp",
        "kafka_dlt-original-consumer-group",
        "kafka_dlt-exception-fqcn",
        "kafka_dlt-exception-message",
        "x-error-class",
        ATTEMPTS_HEADER,
    }
)
"""What `dead_letter` adds to a record."""


def original_place(headers: Headers) -> tuple[str, int, int, int] | None:
    """Where a dead letter came from: topic, partition, offset, timestamp (milliseconds); None for
    a record that is no dead letter of ours."""
    given = dict(headers)
    try:
        return (
            (given["kafka_dlt-original-topic"] or b"").decode(),
            struct.unpack(">i", given["kafka_dlt-original-partition"] or b"")[0],
            struct.unpack(">q", given["kafka_dlt-original-offset"] or b"")[0],
            struct.unpack(">q", given["kafka_dlt-original-timestamp"] or b"")[0],
        )
    except (KeyError, ValueError, struct.error):
        return None


def pack_headers(headers: Headers) -> str:
    """The headers as ASCII text for a text column: JSON, `[name, text, true]` for a value in ASCII,
    else `[name, base64]` or `[name, null]`."""
    return json.dumps([_packed(name, value) for name, value in headers])


def _packed(name: str, value: bytes | None) -> tuple[object, ...]:
    if value is None:
        return name, None
    if value.isascii():
        return name, value.decode("ascii"), True
    return name, b64encode(value).decode()


def unpack_headers(packed: str) -> Headers:
    """The headers that `pack_headers` packed."""
    return tuple([_unpacked(*header) for header in json.loads(packed)])


def _unpacked(name: str, value: str | None, is_text: bool = False) -> tuple[str, bytes | None]:
    if is_text and value is not None:
        return name, value.encode("ascii")
    return name, None if value is None else b64decode(value)
