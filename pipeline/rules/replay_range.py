"""Which part of a topic a replay takes, as an operator writes it.

The options are those of Kafka's own `kafka-consumer-groups --reset-offsets`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

from pipeline.rules.limits_file import LimitsError, parse_span

_REPLAYS = UUID("3c5d8a41-7f0e-4e0c-9d52-6b1f4e2a9c77")
_DURATION = re.compile(
    r"P(?=[\dT])(?:(\d{1,6})W)?(?:(\d{1,6})D)?(?:T(?=\d)(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,6})S)?)?"
)
_PLACE = re.compile(r"(\d{1,9}):(\d{1,18})")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RangeError(ValueError):
    """The options are wrong; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Range:
    """Where a replay begins and ends.

    It begins at `since`, or `back` before now, or at the `offsets` (partition, offset), or else at
    the earliest record; it ends at `until`, or with the last record there is. `partitions`: only
    these; all where there are none.
    """

    since: datetime | None = None
    back: timedelta | None = None
    offsets: tuple[tuple[int, int], ...] = ()
    until: datetime | None = None
    partitions: tuple[int, ...] = ()

    @property
    def needs_times(self) -> bool:
        """Whether the broker has to look offsets up by time."""
        return any(value is not None for value in (self.since, self.back, self.until))

    def __str__(self) -> str:
        """The options, in one form: equal ranges are equal texts."""
        words = [f"--from-offset {partition}:{offset}" for partition, offset in self.offsets]
        if self.since is not None:
            words.append(f"--from-datetime {_written(self.since)}")
        if self.back is not None:
            words.append(f"--by-duration PT{round(self.back.total_seconds())}S")
        words = words or ["--from-earliest"]
        if self.until is not None:
            words.append(f"--to-datetime {_written(self.until)}")
        return " ".join([*words, *(f"--partition {number}" for number in self.partitions)])


def parse_range(
    *,
    earliest: bool,
    since: str | None,
    back: str | None,
    offsets: Sequence[str],
    until: str | None,
    partitions: Sequence[int],
) -> Range:
    """The range that the options mean; raises `RangeError`."""
    if (earliest, since is not None, back is not None, bool(offsets)).count(True) != 1:
        raise RangeError(
            "say where to begin, with one of --from-earliest, --from-datetime, --by-duration,"
            " --from-offset; for example --from-datetime 2026-11-01T00:00:00Z"
        )
    places = dict(map(_place, offsets))
    if len(places) < len(offsets):
        raise RangeError("--from-offset: a partition is given twice; give each once, such as 0:1")
    if partitions and (outside := places.keys() - set(partitions)):
        raise RangeError(
            f"--from-offset names partition {min(outside)}, --partition leaves it out; add"
            f" --partition {min(outside)}"
        )
    found = Range(
        since=None if since is None else parse_instant("--from-datetime", since),
        back=None if back is None else parse_duration(back),
        offsets=tuple(sorted(places.items())),
        until=None if until is None else parse_instant("--to-datetime", until),
        partitions=tuple(sorted(set(partitions))),
    )
    if found.since and found.until and found.since >= found.until:
        raise RangeError(
            "--to-datetime is not after --from-datetime; for example"
            " --from-datetime 2026-11-01 --to-datetime 2026-11-02"
        )
    return found


def parse_instant(option: str, written: str) -> datetime:
    """An ISO 8601 instant; UTC where it names no zone. Raises `RangeError`."""
    try:
        instant = datetime.fromisoformat(written)
    except ValueError:
        instant = None
    if instant is not None:
        instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    if instant is None or instant < _EPOCH:
        raise RangeError(
            f"{option}: {written!r} is no instant in ISO 8601; for example 2026-11-01T10:00:00Z"
        )
    return instant.astimezone(UTC)


def parse_duration(written: str) -> timedelta:
    """PT2H, P7D, P1DT12H, or 2h and 7d; raises `RangeError`. Months and years have no length."""
    if match := _DURATION.fullmatch(written):
        weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        found = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    else:
        try:
            found = timedelta(seconds=parse_span(written))
        except LimitsError:
            found = timedelta()
    if not timedelta() < found <= timedelta(days=36_600):
        raise RangeError(f"--by-duration: {written!r} is no duration; for example PT2H, P7D or 7d")
    return found


def parse_id(written: str) -> str:
    """A replay's id as the operator chose it; raises `RangeError`."""
    if not _WORD.fullmatch(written):
        raise RangeError(
            f"--id: {written!r} is no word of letters, digits, '.', '_' and '-'; for example"
            " --id after-restore"
        )
    return written


def derived_id(topic: str, options: str) -> str:
    """The id of a replay that was given none: the same command has the same."""
    return uuid5(_REPLAYS, f"{topic}\0{options}").hex[:12]


def _place(written: str) -> tuple[int, int]:
    match = _PLACE.fullmatch(written)
    if not match:
        raise RangeError(
            f"--from-offset: {written!r} is not PARTITION:OFFSET; for example --from-offset 0:1500"
        )
    return int(match[1]), int(match[2])


def _written(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")
