"""From a record of the `entity-created` topic to an event, or to the reason why it is none.

Three forms are accepted: a CloudEvent in binary mode (attributes in `ce_` headers), a CloudEvent
in structured mode (attributes around the data), and the bare data. CloudEvents are those of
version 1.0 and of its Kafka protocol binding.
"""

import hashlib
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from math import isinf
from typing import Literal
from uuid import UUID, uuid5

from pydantic import ValidationError
from pydantic_core import from_json

from schemas.problems import explain
from schemas.request import EntityCreated

MAX_DEPTH = 20
MAX_INTEGER = 2**53 - 1  # the largest that every JSON reader keeps exactly (RFC 7493)

# Source and id together fit an index entry of PostgreSQL (2,704 bytes) at four bytes a character.
MAX_CHARACTERS = {"id": 200, "source": 400, "type": 200}

_BARE_RECORDS = UUID("5a1e3f0c-93b0-4c43-9c5f-0d0b5e6a7a11")

# W3C Trace Context: version (not ff), trace id and parent id (not all zeros), flags.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


class Undecodable(Exception):
    """Why a record is no event. `code` is a stable word, `message` a sentence for people."""

    error_class: Literal["permanent"] = "permanent"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Record:
    """A Kafka record as it was read; Kafka lets the key, the value and any header be null."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class EntityEvent:
    """A valid `entity-created` event; (source, id) is its identity."""

    source: str
    id: str
    traceparent: str | None
    request: EntityCreated
    record: Record


def decode(record: Record) -> EntityEvent:
    """The record's event. Raises `Undecodable`, and nothing else, for a record that is none."""
    if record.value is None:
        raise Undecodable("no_value", "The record has no value.")
    headers = dict(record.headers)  # the last of a repeated header counts, as in Kafka's clients
    attributes = _header_attributes(headers)
    content_type = _loose_text(headers, "content-type")
    if content_type.lower().startswith("application/cloudevents"):
        if _media_type(content_type) != "application/cloudevents+json":
            raise Undecodable("bad_event", "Of structured CloudEvents only single JSON is read.")
        return _structured_event(record, headers, _object(parse_json(record.value)))
    if not attributes.keys().isdisjoint(("specversion", "id", "source", "type")):
        _require_json(content_type)
        return _cloudevent(record, headers, attributes, parse_json(record.value))
    data = _object(parse_json(record.value))
    if "specversion" in data:
        return _structured_event(record, headers, data)
    return _bare_event(record, headers, data)


def parse_json(data: bytes) -> object:
    """The value of JSON text from outside.

    Raises `Undecodable` for what is not JSON in UTF-8, and for what PostgreSQL, RFC 8785 or other
    readers cannot keep: NUL, lone surrogates, NaN and infinities, integers beyond 2^53-1, and
    nesting deeper than 20.
    """
    try:
        value: object = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Undecodable("not_json", f"The value is not JSON in UTF-8: {error}.") from None
    if _is_suspect(data):
        _refuse_unsafe(value, MAX_DEPTH)
    return value


# Digits as 0, the letter of an exponent as e, everything else as a blank.
_NUMBERS = bytes(
    ord("0") if chr(byte).isdecimal() else ord("e") if chr(byte) in "eE" else ord(" ")
    for byte in range(256)
)


def _is_suspect(data: bytes) -> bool:
    """Whether JSON text could hold something unsafe: an escaped NUL, sixteen digits in a row, an
    exponent of three, or brackets enough for the depth. Where not, nobody has to walk it."""
    numbers = data.translate(_NUMBERS, b"+-")
    return (
        b"\\u0000" in data
        or b"0" * 16 in numbers
        or b"0e000" in numbers
        or data.count(b"{") + data.count(b"[") > MAX_DEPTH
    )


def _refuse_unsafe(value: object, depth_left: int) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise Undecodable("unsafe_json", "A string or a key holds NUL.")
    elif isinstance(value, dict | list):
        if depth_left == 0:
            raise Undecodable("unsafe_json", f"The value is nested deeper than {MAX_DEPTH}.")
        if isinstance(value, dict):
            for key in value:
                _refuse_unsafe(key, depth_left)
            value = value.values()
        for item in value:
            _refuse_unsafe(item, depth_left - 1)
    elif isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise Undecodable("unsafe_json", "An integer is beyond 2^53-1.")
    elif isinstance(value, float) and isinf(value):
        raise Undecodable("unsafe_json", "A number is too large.")


def _cloudevent(
    record: Record,
    headers: Mapping[str, bytes | None],
    attributes: Mapping[str, object],
    data: object,
) -> EntityEvent:
    if attributes.get("specversion") != "1.0":
        raise Undecodable("bad_event", "The event's specversion is not 1.0.")
    event_type = _identifier("type", attributes.get("type"))
    if event_type.removesuffix(".v1").rpartition(".")[2] != "entity-created":
        raise Undecodable("bad_event", "The event's type does not end in entity-created or .v1.")
    return EntityEvent(
        source=_identifier("source", attributes.get("source")),
        id=_identifier("id", attributes.get("id")),
        traceparent=_traceparent(headers, attributes.get("traceparent")),
        request=_request(_object(data)),
        record=record,
    )


def _bare_event(
    record: Record, headers: Mapping[str, bytes | None], data: dict[str, object]
) -> EntityEvent:
    """An event of Debezium's outbox router (header `id`), or of any producer of plain JSON."""
    given = headers.get("id")
    return EntityEvent(
        source=f"urn:kafka:{record.topic}",
        id=_derived_id(record) if given is None else _identifier("id", _text("id", given)),
        traceparent=_traceparent(headers, None),
        request=_request(data),
        record=record,
    )


def _derived_id(record: Record) -> str:
    """The same id for the same record, however often it is read.

    The timestamp and the value's hash are part of it because offsets start again with a new
    in-memory broker while the database lives on.
    """
    digest = hashlib.sha256(record.value or b"").hexdigest()
    place = (record.topic, record.partition, record.offset, record.timestamp_ms, digest)
    return str(uuid5(_BARE_RECORDS, "\0".join(map(str, place))))


def _structured_event(
    record: Record, headers: Mapping[str, bytes | None], envelope: Mapping[str, object]
) -> EntityEvent:
    _require_json(envelope.get("datacontenttype", ""))
    if ("data" in envelope) == ("data_base64" in envelope):
        raise Undecodable("bad_event", "The event has to have either data or data_base64.")
    if "data" in envelope:
        return _cloudevent(record, headers, envelope, envelope["data"])
    encoded = envelope["data_base64"]
    if not isinstance(encoded, str):
        raise Undecodable("bad_event", "The event's data_base64 is not a string.")
    try:
        decoded = b64decode(encoded, validate=True)
    except ValueError:
        raise Undecodable("bad_event", "The event's data_base64 is not base64.") from None
    return _cloudevent(record, headers, envelope, parse_json(decoded))


def _require_json(content_type: object) -> None:
    """Refuse data that says it is something else; data that says nothing is taken for JSON."""
    media_type = _media_type(content_type) if isinstance(content_type, str) else "?"
    if media_type not in ("", "application/json", "text/json") and not media_type.endswith("+json"):
        raise Undecodable("bad_event", "The event's content type is not JSON.")


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise Undecodable("not_an_object", "The data is not a JSON object.")
    return value


def _request(data: dict[str, object]) -> EntityCreated:
    try:
        return EntityCreated.from_wire(data)
    except ValidationError as error:
        raise Undecodable("bad_request", explain(error)) from None


def _identifier(name: str, value: object) -> str:
    longest = MAX_CHARACTERS[name]
    if value is None:
        raise Undecodable("bad_event", f"The event's {name} is missing.")
    if not isinstance(value, str) or not value.strip():
        raise Undecodable("bad_event", f"The event's {name} is not a string, or is blank.")
    if len(value) > longest:
        raise Undecodable("bad_event", f"The event's {name} is over {longest} characters long.")
    return value


def _header_attributes(headers: Mapping[str, bytes | None]) -> dict[str, object]:
    return {
        name[3:]: _text(name, value)
        for name, value in headers.items()
        if name.startswith("ce_") and value is not None
    }


def _text(name: str, value: bytes) -> str:
    """A header's text, held to the same rules as the strings of the value."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise Undecodable("bad_event", f"The header {name} is not UTF-8.") from None
    if "\0" in text:
        raise Undecodable("bad_event", f"The header {name} holds NUL.")
    return text


def _loose_text(headers: Mapping[str, bytes | None], name: str) -> str:
    """The text of a header that is no part of the event; what is not UTF-8 matches nothing."""
    return (headers.get(name) or b"").decode("utf-8", "replace")


def _traceparent(headers: Mapping[str, bytes | None], enveloped: object) -> str | None:
    """The first well-formed one; tracing is never a reason to refuse an event."""
    candidates = (
        _loose_text(headers, "traceparent"),
        _loose_text(headers, "ce_traceparent"),
        enveloped,
    )
    return next(filter(None, map(traceparent_of, candidates)), None)


def traceparent_of(given: object) -> str | None:
    """What was given, if it is a traceparent as W3C's Trace Context writes it."""
    if isinstance(given, str) and _TRACEPARENT.fullmatch(given):
        return given
    return None
