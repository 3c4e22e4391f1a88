"""The limits as an operator meets them: what stops, what waits, and what lets it go on."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.acceptance.harness import UNLIMITED, World, entity

HOURLY = 20  # of the default limits


def test_default_limits_stop_at_twenty_pictures_and_higher_ones_let_the_rest_go_on(
    world: World,
) -> None:
    world.start_worker()

    world.publish([entity(n, f"Daire {n}") for n in range(HOURLY + 6)])

    outcomes = world.outcomes(ready=HOURLY, deferred=6)
    assert len(world.sandbox.purchases) == HOURLY
    waiting = {deferred.key for deferred in outcomes.deferred}
    assert len(waiting) == 6
    assert waiting.isdisjoint(ready.key for ready in outcomes.ready)
    within_the_hour = datetime.now(UTC) + timedelta(hours=1)
    for deferred in outcomes.deferred:
        assert deferred.data["limit"] == {"name": "hour", "scope": "global", "windowSeconds": 3600}
        assert deferred.data["used"]["requests"] == HOURLY
        assert datetime.now(UTC) < instant(deferred.data["retryAt"]) < within_the_hour
    status = json.loads(world.run("status", "--json").stdout)
    assert status["queue"]["queued"] == 6
    assert status["queue"]["waitsFor"] == "hour"
    [hour] = [limit for limit in status["limits"] if limit["name"] == "hour"]
    assert (hour["used"]["requests"], hour["remaining"]["requests"]) == (HOURLY, 0)
    assert datetime.now(UTC) < instant(hour["freesAt"]) < within_the_hour
    assert instant(status["queue"]["waitsUntil"]) == instant(hour["freesAt"])

    applied = world.run("limits", "apply", "-", stdin=UNLIMITED)

    assert applied.returncode == 0, applied.stderr
    outcomes = world.outcomes(ready=HOURLY + 6)
    assert len(world.sandbox.purchases) == HOURLY + 6
    assert len(outcomes.deferred) == 6
    assert json.loads(world.run("status", "--json").stdout)["queue"]["waitsFor"] is None


def test_limits_that_are_shown_can_be_applied_again(world: World) -> None:
    shown = world.run("limits", "show", "--toml")

    applied = world.run("limits", "apply", "-", stdin=shown.stdout)

    assert applied.returncode == 0, applied.stderr
    assert world.run("limits", "show", "--toml").stdout == shown.stdout
    names = [limit["name"] for limit in json.loads(world.run("limits", "show", "--json").stdout)]
    assert {"hour", "day", "daily-cost", "backfill-hour"} < set(names)


def test_a_wrong_limits_file_names_the_limit_and_changes_nothing(world: World) -> None:
    before = world.run("limits", "show", "--toml").stdout

    answer = world.run("limits", "apply", "-", stdin=UNLIMITED.replace("1000", "-1"))

    assert answer.returncode == 1
    assert answer.stderr.startswith("imagepipe: -: limit 'hour': requests: -1 is not ")
    assert answer.stderr.count("\n") == 1
    assert world.run("limits", "show", "--toml").stdout == before


def instant(text: Any) -> datetime:
    return datetime.fromisoformat(text)
