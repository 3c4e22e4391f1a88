"""The range of a replay, as an operator writes it."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pipeline.rules.replay_range import (
    Range,
    RangeError,
    derived_id,
    parse_duration,
    parse_id,
    parse_instant,
    parse_range,
)


def ranged(**options: Any) -> Range:
    none: dict[str, Any] = {
        "earliest": False,
        "since": None,
        "back": None,
        "offsets": [],
        "until": None,
        "partitions": [],
    }
    return parse_range(**none | options)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("PT2H", 7_200),
        ("2h", 7_200),
        ("P7D", 604_800),
        ("7d", 604_800),
        ("P1W", 604_800),
        ("P1DT1H1M1S", 90_061),
        ("PT90S", 90),
    ],
)
def test_durations(written: str, seconds: int) -> None:
    assert parse_duration(written) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "written", ["", "P", "PT", "P1DT", "P1M", "P1Y", "PT0S", "2", "h", "-2h", "PT2H ", "P999999W"]
)
def test_what_is_no_duration_gets_an_example(written: str) -> None:
    with pytest.raises(RangeError, match="for example PT2H, P7D or 7d"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T10:00", datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("2026-11-01T10:00:00.250Z", datetime(2026, 11, 1, 10, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-11-01T10:00+03:00", datetime(2026, 11, 1, 7, tzinfo=UTC)),
    ],
)
def test_an_instant_without_a_zone_is_utc(written: str, instant: datetime) -> None:
    assert parse_instant("--from-datetime", written) == instant
    assert parse_instant("--from-datetime", written).tzinfo == UTC


@pytest.mark.parametrize("written", ["", "yesterday", "1700000000000", "1969-12-31", "2026-13-01"])
def test_what_is_no_instant_gets_an_example(written: str) -> None:
    with pytest.raises(RangeError, match="for example 2026-11-01T10:00:00Z"):
        parse_instant("--to-datetime", written)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "say where to begin"),
        ({"earliest": True, "back": "2h"}, "say where to begin"),
        ({"offsets": ["0"]}, "for example --from-offset 0:1500"),
        ({"offsets": ["0:1", "0:2"]}, "given twice"),
        ({"offsets": ["1:1"], "partitions": [0]}, "add --partition 1"),
        ({"since": "2026-11-02", "until": "2026-11-02"}, "is not after"),
    ],
)
def test_wrong_ranges_say_what_to_write(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RangeError, match=said):
        ranged(**options)


def test_ids_are_words() -> None:
    assert parse_id("after-restore.2") == "after-restore.2"
    for wrong in ("", "a b", "-a", "ş", "x" * 101):
        with pytest.raises(RangeError, match="for example --id"):
            parse_id(wrong)


def test_the_same_options_have_the_same_id_however_they_are_written() -> None:
    def id_of(**options: Any) -> str:
        return derived_id("entity-created", str(ranged(**options)))

    assert id_of(back="2h") == id_of(back="PT120M")
    assert id_of(since="2026-11-01T10:00") == id_of(since="2026-11-01T12:00+02:00")
    assert id_of(offsets=["1:5", "0:3"]) == id_of(offsets=["0:3", "1:5"])
    assert id_of(earliest=True, partitions=[1, 0]) == id_of(earliest=True, partitions=[0, 1, 1])
    different: list[dict[str, Any]] = [
        {"earliest": True},
        {"earliest": True, "until": "2026-11-01"},
        {"earliest": True, "partitions": [0]},
        {"back": "2h"},
        {"offsets": ["0:0"]},
    ]
    assert len({id_of(**options) for options in different}) == len(different)
    assert derived_id("other", "--from-earliest") != derived_id("topic", "--from-earliest")


def test_a_range_reads_as_its_options() -> None:
    plus_three = datetime(2026, 11, 1, 3, tzinfo=timezone(timedelta(hours=3)))
    found = ranged(since=plus_three.isoformat(), until="2026-11-02", partitions=[3])
    assert str(found) == (
        "--from-datetime 2026-11-01T00:00:00Z --to-datetime 2026-11-02T00:00:00Z --partition 3"
    )
    assert found.needs_times
    assert not ranged(offsets=["0:0"]).needs_times
