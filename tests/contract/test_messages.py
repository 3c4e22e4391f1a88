"""What is published, byte for byte: outcomes, dead letters, and headers kept in a text column."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events import Record, decode
from pipeline.messages import (
    Headers,
    dead_letter,
    outcome_id,
    outcome_message,
    pack_headers,
    request_id,
    unpack_headers,
)
from schemas.outcomes import (
    Causation,
    CostIncurred,
    ImageDeferred,
    ImageFailed,
    ImageReady,
    Outcome,
)
from schemas.wire import usd
from tests.contract.golden import GOLDEN, record_of

MODELS: dict[str, type[Outcome]] = {
    "ready": ImageReady,
    "failed": ImageFailed,
    "deferred": ImageDeferred,
}


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_outcomes(golden: dict[str, Any]) -> None:
    event = decode(record_of(golden))
    outcome = golden["outcome"]
    data = MODELS[outcome["kind"]].model_validate(outcome["data"])
    expected = golden["message"]
    message = outcome_message(
        expected["topic"],
        outcome["kind"],
        data,
        ordinal=outcome["ordinal"],
        traceparent=event.traceparent,
    )
    assert message.topic == expected["topic"]
    assert message.key == expected["key"].encode()
    assert message.value == expected["value"].encode()
    assert message.headers == tuple((name, text.encode()) for name, text in expected["headers"])


def test_a_request_without_entity_has_its_id_as_key_and_instants_are_in_utc() -> None:
    istanbul = datetime(2026, 11, 22, 13, 0, tzinfo=timezone(timedelta(hours=3)))
    data = ImageFailed(
        request_id=uuid4(),
        sequence=1,
        entity=None,
        error_class="exhausted",
        code="overloaded",
        message="Every try failed.",
        attempts=5,
        cost_incurred=CostIncurred(usd=usd(0)),
        context_hash="0" * 64,
        prompt_hash=None,
        causation=Causation(source="urn:http", id="1"),
        occurred_at=istanbul,
    )
    message = outcome_message(
        "image-failed",
        "failed",
        data,
        ordinal=1,
        traceparent=None,
        source="urn:imagepipe:test",
    )
    headers = dict(message.headers)
    assert message.key == str(data.request_id).encode() == headers["ce_subject"]
    assert headers["ce_time"] == b"2026-11-22T10:00:00Z"
    assert headers["ce_source"] == b"urn:imagepipe:test"
    assert "traceparent" not in headers
    assert message.value is not None
    assert b'"occurredAt":"2026-11-22T10:00:00Z"' in message.value
    assert b'"entity":null' in message.value
    assert ImageFailed.model_validate_json(message.value).occurred_at == istanbul.astimezone(UTC)


@pytest.mark.parametrize(
    ("micro", "printed"),
    [
        (0, "0.0"),
        (1, "1e-6"),
        (13_001, "0.013001"),
        (40_000, "0.04"),
        (120_000, "0.12"),
        (10_000_000, "10.0"),
        (999_999_999_999_999, "999999999.999999"),
    ],
)
def test_dollars_are_exact_numbers(micro: int, printed: str) -> None:
    cost = CostIncurred(usd=usd(micro))
    assert cost.model_dump_json() == f'{{"usd":{printed}}}'
    assert CostIncurred.model_validate_json(cost.model_dump_json()).usd * 1_000_000 == micro
    assert Decimal(printed) * 1_000_000 == micro


def test_a_redelivery_repeats_ids_and_a_second_outcome_does_not() -> None:
    assert request_id("urn:a", "1") == request_id("urn:a", "1")
    assert outcome_id("urn:a", "1", "ready", 1) == outcome_id("urn:a", "1", "ready", 1)
    different = {
        request_id("urn:a", "1"),
        request_id("urn:a1", ""),
        outcome_id("urn:a", "1", "ready", 1),
        outcome_id("urn:a", "1", "failed", 1),
        outcome_id("urn:a", "1", "deferred", 1),
        outcome_id("urn:a", "1", "deferred", 2),
        outcome_id("urn:a", "2", "deferred", 1),
    }
    assert len(different) == 7


@pytest.mark.parametrize("value", [b"\x00\xff not json", None])
def test_a_dead_letter_is_the_record_with_the_reason_appended(value: bytes | None) -> None:
    original: Headers = (("ce_id", b"\xff"), ("ce_id", b"again"), ("empty", None), ("", b""))
    broken = Record("entity-created", 3, 2**40 + 5, 0x1A2_0327_B200, b"\xfe", value, original)
    message = dead_letter(
        "entity-created.dlq",
        broken,
        code="bad_event",
        message="The header ce_id is not UTF-8: ş.",
        error_class="permanent",
        attempts=1,
        group="imagepipe",
    )
    assert (message.topic, message.key, message.value) == ("entity-created.dlq", b"\xfe", value)
    assert message.headers == (
        *original,
        ("kafka_dlt-original-topic", b"entity-created"),
        ("kafka_dlt-original-partition", b"\x00\x00\x00\x03"),
        ("kafka_dlt-original-offset", b"\x00\x00\x01\x00\x00\x00\x00\x05"),
        ("kafka_dlt-original-timestamp", b"\x00\x00\x01\xa2\x03\x27\xb2\x00"),
        ("kafka_dlt-original-consumer-group", b"imagepipe"),
        ("kafka_dlt-exception-fqcn", b"imagepipe.bad_event"),
        ("kafka_dlt-exception-message", b"The header ce_id is not UTF-8: \xc5\x9f."),
        ("x-error-class", b"permanent"),
        ("x-attempts", b"1"),
    )


names = st.text(st.characters(exclude_categories=()))  # lone surrogates and NUL included


@given(st.lists(st.tuples(names, st.none() | st.binary())).map(tuple))
def test_headers_survive_a_text_column(headers: Headers) -> None:
    packed = pack_headers(headers)
    assert packed.isascii()
    assert "\x00" not in packed
    assert unpack_headers(packed) == headers
