"""Dead letters after a fix: browsed, sent again, dropped; what was done with each is kept."""

import json
from typing import Any

from tests.acceptance.harness import World, entity

BROKEN = b'{"type": "listing"'
WRONG = {"type": "yacht", "context": {"title": "x"}}


def listed(world: World, *options: str) -> list[dict[str, Any]]:
    answer = world.run("dlq", "list", "--json", *options)
    assert answer.returncode == 0, answer.stderr
    found: list[dict[str, Any]] = json.loads(answer.stdout)
    return found


def test_dead_letters_are_browsed_redriven_and_dropped(world: World) -> None:
    worker = world.start_worker()
    huge = b'{"type": "custom", "prompt": "' + b"x" * 999_990
    world.produce(
        [
            (b"a", BROKEN, (("trace", b"mine"),)),
            (b"b", json.dumps(WRONG).encode(), ()),
            (b"c", json.dumps(entity(1, "Sound")).encode(), ()),
            (b"d", huge, ()),
        ]
    )
    world.outcomes(ready=1, dead_letters=2)
    world.wait_until(lambda: len(listed(world)) == 3, "three dead letters")

    by_code = {row["code"]: row for row in listed(world)}
    assert [row["code"] for row in listed(world, "--code", "bad_request")] == ["bad_request"]
    broken = next(row for row in listed(world, "--code", "not_json") if row["whole"])
    shown = json.loads(world.run("dlq", "show", broken["id"], "--json").stdout)
    assert shown["record"]["value"] == BROKEN.decode()
    assert shown["record"]["headers"]["trace"] == "mine"
    too_large = next(row for row in listed(world) if not row["whole"])
    shown = json.loads(world.run("dlq", "show", too_large["id"], "--json").stdout)
    assert len(shown["record"]["value"]) == len(huge)  # from where it came

    dropped = world.run("dlq", "drop", by_code["bad_request"]["id"])
    assert (dropped.returncode, dropped.stdout.strip()) == (0, "1 dropped")
    assert world.run("dlq", "drop", by_code["bad_request"]["id"]).returncode == 1
    assert world.run("dlq", "drop").returncode == 2
    redriven = world.run("dlq", "redrive", broken["id"])
    assert (redriven.returncode, redriven.stdout.strip()) == (0, "1 redriven")

    again = world.outcomes(dead_letters=3).dead_letters
    [second] = [letter for letter in again if letter.headers["x-attempts"] == b"2"]
    assert second.value == BROKEN
    assert second.headers["trace"] == b"mine"
    fates = {row["id"]: row["fate"] for row in listed(world, "--all")}
    assert fates[broken["id"]] == "redriven"
    assert fates[by_code["bad_request"]["id"]] == "dropped"
    world.wait_until(
        lambda: sorted(row["attempts"] for row in listed(world)) == [1, 2], "the new letter"
    )
    assert worker.stop() == 0


def test_what_was_refused_for_a_passing_reason_becomes_a_picture(world: World) -> None:
    """The model that takes no long prompt is exchanged: the fix."""
    dall_e = {"IMAGEPIPE_MODEL": "dall-e-3"}
    worker = world.start_worker(**dall_e)
    upload = {"entityType": "other", "entityId": "1"}
    world.publish([{"type": "custom", "prompt": "long " * 1000, "upload": upload}])
    world.outcomes(dead_letters=1)
    assert worker.stop() == 0

    world.start_worker()
    assert world.run("dlq", "redrive", "--all").stdout.strip() == "1 redriven"

    assert len(world.outcomes(ready=1).bought) == 1
    assert listed(world) == []
