"""Decoding `entity-created`: the three forms, and every way in which a record is no event."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from pipeline.events import (
    MAX_DEPTH,
    EntityEvent,
    Record,
    Undecodable,
    _is_suspect,
    _refuse_unsafe,
    decode,
    parse_json,
)
from pipeline.messages import request_id
from tests.contract.golden import GOLDEN, record_of

DATA = {
    "type": "listing",
    "context": {"title": "Ilıca'da İMARLI arsa: çğıöşü ÇĞİÖŞÜ"},
    "upload": {"entityType": "listing", "entityId": "4711"},
}
HEADERS = {
    "ce_specversion": b"1.0",
    "ce_id": b"1",
    "ce_source": b"urn:cms",
    "ce_type": b"cms.entity-created.v1",
}
ENVELOPE = {
    "specversion": "1.0",
    "id": "1",
    "source": "urn:cms",
    "type": "cms.entity-created.v1",
    "data": DATA,
}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def record(
    value: object = DATA, headers: dict[str, bytes | None] | None = None, offset: int = 7
) -> Record:
    text = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    return Record("entity-created", 0, offset, 1_000, b"k", text, tuple((headers or {}).items()))


def refusal(undecodable: Record) -> tuple[str, str]:
    with pytest.raises(Undecodable) as refused:
        decode(undecodable)
    assert refused.value.error_class == "permanent"
    return refused.value.code, refused.value.message


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_events_keep_their_identity(golden: dict[str, Any]) -> None:
    given_record = record_of(golden)
    event = decode(given_record)
    expected = golden["event"]
    assert (event.source, event.id, event.traceparent) == (
        expected["source"],
        expected["id"],
        expected["traceparent"],
    )
    assert str(request_id(event.source, event.id)) == expected["requestId"]
    assert event.record is given_record


@pytest.mark.parametrize(
    "form",
    [
        record(DATA, {**HEADERS, "content-type": b"application/vnd.cms+json; charset=utf-8"}),
        record(DATA, {**HEADERS}),
        record(ENVELOPE, {"content-type": b"Application/CloudEvents+JSON; charset=UTF-8"}),
        record(ENVELOPE),
        record({k: v for k, v in ENVELOPE.items() if k != "data"} | {
            "data_base64": b64encode(json.dumps(DATA).encode()).decode()
        }),
        record(DATA, {"id": b"1"}),
    ],
)  # fmt: skip
def test_every_form_carries_the_same_request(form: Record) -> None:
    event = decode(form)
    assert event.id == "1"
    assert event.request.model_dump(exclude_unset=True, mode="json") == DATA


def test_a_bare_value_without_id_has_the_same_one_whenever_it_is_read() -> None:
    first, again, elsewhere = decode(record()), decode(record()), decode(record(offset=8))
    other_value = decode(record({**DATA, "skipCache": True}))
    assert first.source == "urn:kafka:entity-created"
    assert first.id == again.id
    assert len({first.id, elsewhere.id, other_value.id}) == 3


@pytest.mark.parametrize("kind", ["entity-created", "entity-created.v1", "a.b.entity-created.v1"])
def test_types_that_are_read(kind: str) -> None:
    assert isinstance(decode(record(DATA, {**HEADERS, "ce_type": kind.encode()})), EntityEvent)


@pytest.mark.parametrize(
    "kind", ["entity-deleted", "entity-created.v2", "xentity-created", "entity-created.x", ".v1"]
)
def test_types_that_are_not_read(kind: str) -> None:
    code, message = refusal(record(DATA, {**HEADERS, "ce_type": kind.encode()}))
    assert (code, message) == (
        "bad_event",
        "The event's type does not end in entity-created or .v1.",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ce_specversion": b"0.3"}, "The event's specversion is not 1.0."),
        ({"ce_specversion": None}, "The event's specversion is not 1.0."),
        ({"ce_id": None}, "The event's id is missing."),
        ({"ce_id": b" "}, "The event's id is not a string, or is blank."),
        ({"ce_id": "ş".encode() * 201}, "The event's id is over 200 characters long."),
        ({"ce_source": b""}, "The event's source is not a string, or is blank."),
        ({"ce_source": b"x" * 401}, "The event's source is over 400 characters long."),
        ({"ce_type": None}, "The event's type is missing."),
        ({"ce_id": b"a\x00"}, "The header ce_id holds NUL."),
        ({"ce_subject": b"\xff"}, "The header ce_subject is not UTF-8."),
        ({"content-type": b"text/plain"}, "The event's content type is not JSON."),
        ({"content-type": b"\xff"}, "The event's content type is not JSON."),
        (
            {"content-type": b"application/cloudevents-batch+json"},
            "Of structured CloudEvents only single JSON is read.",
        ),
    ],
)
def test_a_bad_binary_event(change: dict[str, bytes | None], message: str) -> None:
    assert refusal(record(DATA, {**HEADERS, **change})) == ("bad_event", message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"specversion": 1.0}, "The event's specversion is not 1.0."),
        ({"id": 1}, "The event's id is not a string, or is blank."),
        ({"source": None}, "The event's source is missing."),
        ({"datacontenttype": "application/xml"}, "The event's content type is not JSON."),
        ({"datacontenttype": None}, "The event's content type is not JSON."),
        ({"data_base64": "e30="}, "The event has to have either data or data_base64."),
    ],
)
def test_a_bad_structured_event(change: dict[str, object], message: str) -> None:
    assert refusal(record({**ENVELOPE, **change})) == ("bad_event", message)


@pytest.mark.parametrize("encoded", ["not base64!", "e30", 5, "ş"])
def test_bad_base64(encoded: object) -> None:
    envelope = {**ENVELOPE, "data_base64": encoded}
    del envelope["data"]
    code, message = refusal(record(envelope))
    assert code == "bad_event"
    assert message.startswith("The event's data_base64 is not")


def test_a_structured_event_is_not_completed_from_headers() -> None:
    envelope = {name: value for name, value in ENVELOPE.items() if name != "id"}
    headers: dict[str, bytes | None] = {
        "content-type": b"application/cloudevents+json",
        "ce_id": b"from-a-header",
    }
    assert refusal(record(envelope, headers)) == ("bad_event", "The event's id is missing.")


@pytest.mark.parametrize("header", [b" ", b"x" * 201, b"\xff", b"a\x00"])
def test_a_bad_id_header(header: bytes) -> None:
    assert refusal(record(DATA, {"id": header}))[0] == "bad_event"


def test_a_record_without_a_value() -> None:
    empty = Record("entity-created", 0, 1, 1, b"k", None, ())
    assert refusal(empty) == ("no_value", "The record has no value.")


def test_an_invalid_request_says_which_field() -> None:
    assert refusal(record({**DATA, "options": {"size": "1x1"}})) == (
        "bad_request",
        "options.size: '1x1' is not one of 1024x1024, 1792x1024, 1024x1792",
    )
    assert refusal(record({**DATA, "upload": {}}))[0] == "bad_request"


@pytest.mark.parametrize("value", [b"[]", b'"x"', b"null", b"1"])
def test_data_that_is_no_object(value: bytes) -> None:
    expected = ("not_an_object", "The data is not a JSON object.")
    assert refusal(record(value)) == expected
    assert refusal(record(value, {**HEADERS})) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{}x",
        b"[1,]",
        b"{'a': 1}",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'"\xed\xa0\x80"',
        "{}".encode("utf-16"),
        b"NaN",
        b"-Infinity",
        b'"\\ud800"',
        b'"\\udc00"',
        b'{"\\ud800": 1}',
    ],
)
def test_text_that_is_not_json(text: bytes) -> None:
    with pytest.raises(Undecodable, match=r"^not_json: The value is not JSON in UTF-8: "):
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    [
        b'["\\u0000"]',
        b'{"\\u0000": 1}',
        b"1e999",
        b"[-1e999]",
        b"9007199254740992",
        b"-9007199254740992",
        b"[" * 21 + b"]" * 21,
        b'{"a":' * 21 + b"1" + b"}" * 21,
    ],
)
def test_json_that_others_cannot_keep(text: bytes) -> None:
    with pytest.raises(Undecodable, match=r"^unsafe_json: "):
        parse_json(text)


@pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
def test_a_hundred_thousand_brackets(bracket: bytes) -> None:
    assert refusal(record(bracket * 100_000))[0] == "not_json"


def test_json_at_the_edge_of_what_is_kept() -> None:
    assert parse_json(b"[9007199254740991, -9007199254740991, 1e308, true]") == [
        2**53 - 1,
        1 - 2**53,
        1e308,
        True,
    ]
    assert parse_json(b"[" * 20 + b"]" * 20)
    assert parse_json(b'"\\ud83c\\udfe0 \\\\u0000"') == "🏠 \\u0000"


@pytest.mark.parametrize(
    ("headers", "envelope", "expected"),
    [
        ({"traceparent": TRACEPARENT.encode()}, {}, TRACEPARENT),
        ({"ce_traceparent": TRACEPARENT.encode()}, {}, TRACEPARENT),
        ({}, {"traceparent": TRACEPARENT}, TRACEPARENT),
        ({"traceparent": b"\xff"}, {"traceparent": TRACEPARENT}, TRACEPARENT),
        ({"traceparent": TRACEPARENT.upper().encode()}, {}, None),
        ({"traceparent": TRACEPARENT.encode() + b"\n"}, {}, None),
        ({"traceparent": b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01"}, {}, None),
        ({}, {"traceparent": 1}, None),
    ],
)
def test_a_malformed_traceparent_is_dropped(
    headers: dict[str, bytes | None], envelope: dict[str, object], expected: str | None
) -> None:
    assert decode(record({**ENVELOPE, **envelope}, headers)).traceparent == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)
ENVELOPE_KEYS = [*ENVELOPE, "data_base64", "datacontenttype", "traceparent"]
HEADER_NAMES = [*HEADERS, "ce_time", "content-type", "id", "traceparent", "ce_traceparent"]
envelopes = st.dictionaries(st.sampled_from(ENVELOPE_KEYS), json_values)
requests = st.dictionaries(st.sampled_from([*DATA, "prompt", "options"]), json_values)
values = st.none() | st.binary() | (
    st.one_of(
        json_values,
        envelopes.map(lambda change: ENVELOPE | change),
        requests.map(lambda change: DATA | change),
    ).map(lambda value: json.dumps(value).encode())
)  # fmt: skip
header_values = st.none() | st.binary() | st.sampled_from([b"1.0", b"application/cloudevents+json"])


@given(value=values, headers=st.dictionaries(st.sampled_from(HEADER_NAMES), header_values))
def test_hostile_input_is_refused_and_never_breaks_the_decoder(
    value: bytes | None, headers: dict[str, bytes | None]
) -> None:
    hostile = Record("entity-created", 0, 0, -1, None, value, tuple(headers.items()))
    try:
        event = decode(hostile)
    except Undecodable as refused:
        reason = refused.message
    else:
        reason = event.source + event.id
    assert reason.strip()
    assert b"\x00" not in reason.encode()


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**18), 10**18)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text("0123456789eE+-\0\\u", max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("0\0e9"), inner),
        max_leaves=30,
    )
)
def test_what_is_not_walked_is_safe(value: object) -> None:
    """A look at the bytes decides whether a value is walked: it must not miss anything."""
    data = json.dumps(value).encode()
    if not _is_suspect(data):
        _refuse_unsafe(from_json(data), MAX_DEPTH)
