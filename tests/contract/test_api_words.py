"""The words of the HTTP API: keys, preferences, statuses, limits in headers."""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from pipeline.admission import Decision
from pipeline.api import answers, keys, problems
from pipeline.api.keys import Scope
from pipeline.api.reading import Preferences
from pipeline.pictures import CURSOR, Cursor
from pipeline.refusals import ABANDONED, CANCELLED, SUPERSEDED, Reason
from pipeline.reports import LimitReport
from pipeline.rules.limits import Limit

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
HOUR = Limit("hour", "global", 3600, 20, None)
CAP = Limit("cap", "global", 86_400, None, 10_000_000)


def test_a_key_is_kept_as_a_hash_and_found_by_its_secret() -> None:
    secret, key = keys.new_key("cms", frozenset({Scope.READ}))

    assert keys.parse_keys(str(key)) == [key]
    assert key.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in str(key)
    other = keys.new_key("other", frozenset(Scope))[1]
    assert keys.find([other, key], secret) == key
    assert keys.find([other], secret) is None
    assert keys.find([], secret) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cms",
        "cms:read",
        f"cms::{'0' * 64}",
        f"c m s:read:{'0' * 64}",
        f"cms:read:{'0' * 63}",
        f"cms:READ:{'0' * 64}",
        f"cms:read:{'0' * 64},",
    ],
)
def test_a_wrong_entry_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"key \d is not NAME:SCOPES:SHA256") as refused:
        keys.parse_keys(text)
    assert "0000" not in str(refused.value)


@pytest.mark.parametrize(
    ("header", "respond_async", "wait"),
    [
        (None, False, None),
        ("respond-async", True, None),
        ("Respond-Async, wait=10", True, 10),
        ('wait="5"; foo=bar', False, 5),
        ("return=minimal, wait=x, handling=lenient", False, None),
        ("wait=-1", False, None),
        ("respond-asynchronously", False, None),
    ],
)
def test_preferences(header: str | None, respond_async: bool, wait: float | None) -> None:
    assert Preferences.parse(header) == Preferences(respond_async, wait)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason("policy", "moderation_blocked", ""), 422),
        (Reason("permanent", "invalid_value", ""), 502),
        (Reason("exhausted", "server_is_overloaded", ""), 503),
        (Reason("unknown-outcome", "timeout", ""), 504),
        (SUPERSEDED, 409),
        (CANCELLED, 409),
        (ABANDONED, 503),
    ],
)
def test_every_failure_has_a_status(reason: Reason, status: int) -> None:
    assert problems.status_of(reason) == status


def test_the_seconds_are_rounded_up() -> None:
    decision = Decision([HOUR, CAP], NOW + timedelta(seconds=99, milliseconds=1))

    limit = answers.rate_limit(decision, NOW)

    assert (limit.allowed, limit.retry_after) == (False, 100)
    assert limit.reason == (
        "The limit hour (20 requests per 1h), cap (10 USD per 1d) has no room for 0:01:40."
    )
    soon = answers.rate_limit(Decision([HOUR], NOW), NOW)
    assert soon.retry_after == 1  # never "at once", or clients would not pause


def test_the_headers_name_the_limits_of_requests_that_concern_everybody() -> None:
    reports = [
        LimitReport(HOUR, 20, 0, True, None, NOW + timedelta(seconds=99.5)),
        LimitReport(Limit("api", "source:api", 60, 5, 100), 0, 0, False, None, None),
        LimitReport(Limit("heroes", "type:hero", 60, 5, None), 0, 0, False, None, None),
        LimitReport(CAP, 20, 0, False, None, None),
    ]

    headers = answers.rate_limit_headers(reports, NOW)

    assert headers == {
        "RateLimit-Policy": '"hour";q=20;w=3600, "api";q=5;w=60',
        "RateLimit": '"hour";r=0;t=100, "api";r=5',
    }
    assert answers.rate_limit_headers(reports[3:], NOW) == {}


def test_a_cursor_comes_back_as_it_was() -> None:
    cursor = Cursor(datetime(2026, 11, 24, 7, 21, 47, 793_848, tzinfo=UTC), UUID(int=7))
    assert Cursor.parse(str(cursor)) == cursor

    assert re.fullmatch(CURSOR, str(cursor))
