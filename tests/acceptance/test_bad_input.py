"""Broken records in the middle of good ones: each becomes a dead letter, the rest is unharmed."""

import json
import struct
import time
from typing import Any

from tests.acceptance.harness import Headers, World, entity

GOOD = 3

BINARY: Headers = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"event-1"),
    ("ce_source", b"urn:test:cms"),
    ("ce_type", b"cms.entity-created.v1"),
    ("content-type", b"application/json"),
]


def data(**changes: Any) -> bytes:
    return json.dumps(entity(1, "Daire", **changes)).encode()


def binary(name: str, value: bytes) -> Headers:
    return [(header, value if header == name else usual) for header, usual in BINARY]


BROKEN: dict[str, tuple[str, bytes | None, Headers]] = {
    "bytes that are no text": ("not_json", b"\xff\xfe\x00{}", []),
    "half of a JSON text": ("not_json", data()[:-1], []),
    "a list": ("not_an_object", b"[1, 2]", []),
    "a text": ("not_an_object", b'"listing"', BINARY),
    "nothing": ("no_value", None, []),
    "NaN": ("not_json", b'{"type": NaN}', []),
    "an infinite number": ("unsafe_json", b'{"type": 1e999}', []),
    "an integer beyond 2^53-1": ("unsafe_json", b'{"type": 9007199254740992}', []),
    "NUL": ("unsafe_json", data(context={"title": "Da\0ire"}), []),
    "a lone surrogate": ("not_json", b'{"type": "\\ud800"}', []),
    "a deep nest": ("unsafe_json", b'{"context": ' + b"[" * 30 + b"]" * 30 + b"}", []),
    "an unknown type": ("bad_request", data(type="video"), []),
    "an unknown size": ("bad_request", data(options={"size": "1x1"}), []),
    "an over-long title": ("bad_request", data(context={"title": "x" * 100_000}), []),
    "no entity": ("bad_request", data(upload={}), []),
    "custom without a prompt": ("bad_request", data(type="custom", context={}), []),
    "an event of another version": ("bad_event", data(), binary("ce_specversion", b"0.3")),
    "an event of another type": ("bad_event", data(), binary("ce_type", b"cms.deleted")),
    "an event with a blank id": ("bad_event", data(), binary("ce_id", b" ")),
    "an event without data": ("bad_event", b'{"specversion": "1.0", "id": "1"}', []),
}


def test_broken_records_become_dead_letters_and_good_ones_pictures(world: World) -> None:
    world.start_worker()
    records: list[tuple[bytes | None, bytes | None, Headers]] = [
        (name.encode(), value, headers) for name, (_, value, headers) in BROKEN.items()
    ]
    for number in range(GOOD):
        good = json.dumps(entity(number, f"Sağlam daire {number}")).encode()
        records.insert(number * len(BROKEN) // 2, (f"listing:{number}".encode(), good, []))

    world.produce(records)

    outcomes = world.outcomes(ready=GOOD, dead_letters=len(BROKEN))
    assert len(outcomes.bought) == GOOD
    letters = {letter.key: letter for letter in outcomes.dead_letters}
    assert letters.keys() == BROKEN.keys()
    for name, (code, value, headers) in BROKEN.items():
        letter = letters[name]
        reason = letter.headers
        assert letter.value == value, name
        assert reason | dict(headers) == reason, name
        assert reason["kafka_dlt-exception-fqcn"].decode() == f"imagepipe.{code}", name
        assert reason["kafka_dlt-exception-message"], name
        assert reason["x-error-class"] == b"permanent"
        assert reason["x-attempts"] == b"1"
        assert reason["kafka_dlt-original-topic"] == world.settings.topic_entity_created.encode()
        assert reason["kafka_dlt-original-consumer-group"] == world.settings.kafka_group.encode()
        [milliseconds] = struct.unpack(">q", reason["kafka_dlt-original-timestamp"])
        assert 0 < time.time() - milliseconds / 1000 < 60
    places = {
        struct.unpack(">i", letter.headers["kafka_dlt-original-partition"])
        + struct.unpack(">q", letter.headers["kafka_dlt-original-offset"])
        for letter in outcomes.dead_letters
    }
    assert len(places) == len(BROKEN)

    status = json.loads(world.run("status", "--json").stdout)
    assert sum(status["deadLetters"].values()) == len(BROKEN)
