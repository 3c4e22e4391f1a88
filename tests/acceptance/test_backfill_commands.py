"""`imagepipe plan` and `generate-missing`, as an operator runs them beside a worker."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.harness import Running, World, entity, imagepipe, json_lines

ROWS = [
    {"id": n, "type": "listing", "title": f"Daire {n // 2}", "hasImages": n == 5} for n in range(8)
]


@pytest.fixture
def file(world: World) -> Path:
    path = world.directory / "entities.jsonl"
    path.write_text(json_lines(ROWS))
    return path


def said(world: World, *words: str, code: int = 0) -> dict[str, Any]:
    answer = world.run(*words, "--json")
    assert answer.returncode == code, answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def test_the_plan_is_what_happens_and_then_nothing_is_left(world: World, file: Path) -> None:
    world.start_worker()
    world.lift_limits()
    plan = said(world, "plan", str(file))
    assert (plan["entities"], plan["photo"], plan["generate"], plan["join"]) == (8, 1, 4, 3)
    dry = said(world, "generate-missing", str(file))
    assert dry == plan
    assert world.sandbox.purchases == []

    done = said(world, "generate-missing", str(file), "--execute")

    assert (done["generated"], done["hits"], done["waiting"]) == (plan["generate"], plan["join"], 0)
    assert len(world.sandbox.purchases) == plan["generate"]
    again = said(world, "plan", str(file))
    assert (again["done"], again["generate"], again["upperBoundUsd"]) == (7, 0, 0)
    assert len(world.outcomes(ready=7).ready) == 7


def test_parked_work_ends_with_3_and_a_wrong_line_with_1(world: World, file: Path) -> None:
    world.start_worker()
    tight = 'backfill_percent = 100\n[[limit]]\nname = "hour"\nwindow = "1h"\nrequests = 1\n'
    assert world.run("limits", "apply", "-", stdin=tight).returncode == 0

    done = said(world, "generate-missing", str(file), "--execute", code=3)

    assert done["generated"] == 1
    assert done["parked"] == done["waiting"] > 0
    file.write_text(json_lines(ROWS[:1]) + "{broken\n")
    assert said(world, "plan", str(file), code=1)["invalid"] == 1
    strict = world.run("plan", str(file), "--strict")
    assert strict.returncode == 2
    assert "entities.jsonl:2" in strict.stderr
    assert world.run("plan", "no-such-thing").returncode == 2


def test_a_topic_is_a_source_too(world: World) -> None:
    world.publish([entity(n, f"Daire {n // 2}") for n in range(4)])
    topic = world.settings.topic_entity_created

    plan = said(world, "plan", f"topic:{topic}")

    assert (plan["entities"], plan["generate"], plan["join"]) == (4, 2, 2)
    own = world.directory / "sources.toml"
    own.write_text(f'[sources.late]\ntopic = "{topic}"\nfrom = 2100-01-01T00:00:00Z\n')
    assert said(world, "plan", "late")["entities"] == 0
    missing = world.run("plan", "topic:nowhere")
    assert missing.returncode == 2
    assert "there is no topic nowhere" in missing.stderr


def test_ctrl_c_stops_after_the_batch_in_hand(world: World, file: Path) -> None:
    command = imagepipe("generate-missing", str(file), "--execute", "--wait")
    running = Running(command, world.shell, world.directory, world.directory / "run.log")
    world.wait_until(
        lambda: world.query("SELECT count(*) FROM imagepipe.requests") == [(7,)], "the requests"
    )

    assert running.stop(signal.SIGINT) == 3
    assert "stopping after the batch in hand" in running.log
    assert "Traceback" not in running.log
