"""The limits as an operator writes them: a TOML file, read into `Limit`s and back."""

import re
import tomllib
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from pipeline.rules.lifecycle import Source
from pipeline.rules.limits import Limit
from schemas.request import ImageType

SCOPES = (
    "global",
    *(f"source:{source.value}" for source in Source),
    *(f"type:{kind.value}" for kind in ImageType),
)
DEFAULT_BACKFILL_PERCENT = 50
BACKFILL = f"source:{Source.BACKFILL.value}"
LONGEST_SPAN = 366 * 86_400  # seconds

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([1-9]\d{0,8})([smhd])")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,49}")


class LimitsError(ValueError):
    """The file is wrong; the message names the limit and says what to write instead."""


def parse_limits(text: str) -> list[Limit]:
    """All limits of a file, with backfill's share of each global one; raises `LimitsError`."""
    try:
        document = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise LimitsError(f"not TOML: {error}") from None
    percent = document.pop("backfill_percent", DEFAULT_BACKFILL_PERCENT)
    entries = document.pop("limit", [])
    if document:
        raise LimitsError(
            f"unknown key {next(iter(document))!r}: use backfill_percent and [[limit]]"
        )
    if not isinstance(percent, int) or isinstance(percent, bool) or not 0 <= percent <= 100:
        raise LimitsError(f"backfill_percent: {percent!r} is not a whole number from 0 to 100")
    if not isinstance(entries, list) or not entries:
        raise LimitsError(
            "there is no limit: write at least one [[limit]] (requests = 0 stops all)"
        )
    own = [_limit(place, entry) for place, entry in enumerate(entries, 1)]
    limits = own + [_share(limit, percent) for limit in own if limit.scope == "global"]
    names = [limit.name for limit in limits]
    for name in names:
        if names.count(name) > 1:
            raise LimitsError(f"limit {name!r}: the name is used twice")
    return limits


def _limit(place: int, entry: Any) -> Limit:
    where = f"limit {place}"
    if not isinstance(entry, dict):
        raise LimitsError(f"{where}: write it as a table, [[limit]]")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise LimitsError(f"{where}: name: needs small letters, digits and -, for example 'hour'")
    where = f"limit {name!r}"
    if unknown := entry.keys() - {"name", "scope", "window", "requests", "usd"}:
        raise LimitsError(f"{where}: unknown key {min(unknown)!r}")
    scope = entry.get("scope", "global")
    if scope not in SCOPES:
        raise LimitsError(f"{where}: scope: {scope!r} is none of {', '.join(SCOPES)}")
    requests, usd = entry.get("requests"), entry.get("usd")
    if requests is None and usd is None:
        raise LimitsError(f"{where}: says nothing; give requests, usd, or both")
    return Limit(name, scope, _span(where, entry), _requests(where, requests), _money(where, usd))


def _span(where: str, entry: dict[str, Any]) -> int:
    try:
        return parse_span(entry.get("window"))
    except LimitsError as error:
        raise LimitsError(f"{where}: window: {error}") from None


def parse_span(written: object) -> int:
    """The seconds of 30m, 1h or 7d; raises `LimitsError`."""
    match = _SPAN.fullmatch(written) if isinstance(written, str) else None
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= LONGEST_SPAN:
        raise LimitsError(f"{written!r} is no span; write 30m, 1h or 7d (at most 366d)")
    return seconds


def _requests(where: str, value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 10**12:
        raise LimitsError(f"{where}: requests: {value!r} is not a whole number of 0 or more")
    return value


def _money(where: str, value: object) -> int | None:
    if value is None:
        return None
    amount = Decimal(value) if isinstance(value, int | Decimal) and value is not True else None
    micro = amount * 1_000_000 if amount is not None and amount.is_finite() else None
    if micro is None or micro != micro.to_integral_value() or not 0 <= micro <= 10**15:
        raise LimitsError(
            f"{where}: usd: {value!r} is not an amount in whole micro-dollars, for example 10.50"
        )
    return int(micro)


def _share(limit: Limit, percent: int) -> Limit:
    """Backfill's part of a global limit: rounded down, but never a window without one request."""
    requests = limit.max_requests and limit.max_requests * percent // 100
    if requests == 0 and limit.max_requests and percent:
        requests = 1
    money = None if limit.max_microusd is None else limit.max_microusd * percent // 100
    return Limit(f"backfill-{limit.name}", BACKFILL, limit.span_seconds, requests, money, True)


def render_limits(limits: Iterable[Limit], percent: int = DEFAULT_BACKFILL_PERCENT) -> str:
    """A file that `parse_limits` reads back."""
    lines = [f"backfill_percent = {percent}"]
    for limit in limits:
        if limit.derived:
            continue
        lines += ["", "[[limit]]", f'name = "{limit.name}"', f'scope = "{limit.scope}"']
        lines.append(f'window = "{span_in_words(limit.span_seconds)}"')
        if limit.max_requests is not None:
            lines.append(f"requests = {limit.max_requests}")
        if limit.max_microusd is not None:
            lines.append(f"usd = {Decimal(limit.max_microusd) / 1_000_000:f}")
    return "\n".join(lines) + "\n"


def span_in_words(seconds: int) -> str:
    """The shortest exact form: 3600 is 1h, 90 is 90s."""
    for unit, size in sorted(_UNITS.items(), key=lambda one: -one[1]):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    raise AssertionError("every whole number is a number of seconds")
