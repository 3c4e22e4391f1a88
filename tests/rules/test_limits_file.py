"""The limits as an operator writes them: what is read, what comes back, what is refused."""

import pytest

from pipeline.rules.limits import Limit
from pipeline.rules.limits_file import LimitsError, parse_limits, render_limits

HOUR = '[[limit]]\nname = "hour"\nwindow = "1h"\n'


def test_a_global_limit_gives_backfill_its_share() -> None:
    written = f'backfill_percent = 25\n{HOUR}requests = 20\nusd = 1.50\n[[limit]]\nname = "heroes"'
    written += '\nscope = "type:hero"\nwindow = "7d"\nrequests = 3\n'
    assert parse_limits(written) == [
        Limit("hour", "global", 3600, 20, 1_500_000),
        Limit("heroes", "type:hero", 604_800, 3, None),
        Limit("backfill-hour", "source:backfill", 3600, 5, 375_000, True),
    ]


def test_a_small_share_is_still_one_request() -> None:
    [_, share] = parse_limits(f"{HOUR}requests = 1\n")
    assert share.max_requests == 1


def test_no_share_is_none() -> None:
    [_, share] = parse_limits(f"backfill_percent = 0\n{HOUR}requests = 20\n")
    assert share.max_requests == 0


@pytest.mark.parametrize("usd", ["10", "0.000001", "10.5", "1000000", "0"])
def test_what_is_written_back_reads_as_the_same(usd: str) -> None:
    limits = parse_limits(f"backfill_percent = 30\n{HOUR}requests = 7\nusd = {usd}\n")
    assert parse_limits(render_limits(limits, 30)) == limits


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("[[limit", "not TOML"),
        ("", "there is no limit"),
        ("limits = 3", "unknown key 'limits'"),
        (f"backfill_percent = 101\n{HOUR}requests = 1", "backfill_percent: 101"),
        (f"backfill_percent = true\n{HOUR}requests = 1", "backfill_percent: True"),
        ('[[limit]]\nwindow = "1h"\nrequests = 1', "limit 1: name"),
        (HOUR, "limit 'hour': says nothing"),
        (f"{HOUR}requests = -1", "limit 'hour': requests: -1"),
        (f"{HOUR}requests = true", "limit 'hour': requests: True"),
        (f"{HOUR}requests = 1.5", "limit 'hour': requests: "),
        (f"{HOUR}usd = 0.0000001", "limit 'hour': usd: "),
        (f"{HOUR}usd = nan", "limit 'hour': usd: "),
        (f"{HOUR}usd = -0.01", "limit 'hour': usd: "),
        (f'{HOUR}usd = "10"', "limit 'hour': usd: "),
        (f"{HOUR}request = 1", "limit 'hour': unknown key 'request'"),
        (f'{HOUR}scope = "type:video"\nrequests = 1', "limit 'hour': scope: 'type:video'"),
        (f"{HOUR}requests = 1\n{HOUR}requests = 2", "limit 'hour': the name is used twice"),
        ('[[limit]]\nname = "x"\nrequests = 1', "limit 'x': window: None"),
        ('[[limit]]\nname = "x"\nwindow = "1 hour"\nrequests = 1', "limit 'x': window: '1 hour'"),
        ('[[limit]]\nname = "x"\nwindow = "367d"\nrequests = 1', "limit 'x': window: '367d'"),
    ],
)
def test_a_wrong_file_is_refused_by_the_name_of_what_is_wrong(written: str, reason: str) -> None:
    with pytest.raises(LimitsError) as refused:
        parse_limits(written)
    assert str(refused.value).startswith(reason)
