"""`imagepipe ready`: whether everything is there, and whether the workers move."""

import json

import psutil  # type: ignore[import-untyped]  # PostgreSQL's wheel brings it

from pipeline import health
from pipeline.health import Position, standing_still
from tests.acceptance.harness import World, entity, imagepipe

FREEZES_IN_A_BATCH = "intake.before_transaction:1:stop"


def test_only_partitions_that_wait_and_do_not_move_stand_still() -> None:
    before = {
        0: Position(next=5, end=5),
        1: Position(next=5, end=9),
        2: Position(next=5, end=9),
        3: Position(next=5, end=5),
    }
    now = {
        0: Position(next=5, end=9),  # its records came only now
        1: Position(next=6, end=30),  # more come than go, but they go
        2: Position(next=5, end=9),
        3: Position(next=5, end=5),
    }

    assert standing_still(before, now) == [2]


def test_a_pipeline_with_nothing_to_do_is_ready_at_once(world: World) -> None:
    answer = world.run("ready", "--json", "--within", "3600")

    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == {"ready": True, "notReady": {}, "lag": 0}


def test_everything_that_is_missing_is_named(world: World, empty_database_url: str) -> None:
    elsewhere = f"{world.settings.topic_image_ready}-elsewhere"
    incomplete = world.settings.model_copy(
        update={"database_url": empty_database_url, "topic_image_ready": elsewhere}
    )
    assert health.look(incomplete, within=0).troubles == {
        "database": "it is at revision None, run imagepipe migrate",
        "topics": f"missing: {elsewhere}",
    }

    away = world.settings.model_copy(
        update={
            "database_url": "postgresql://nobody@127.0.0.1:1/nothing",
            "kafka_bootstrap_servers": "127.0.0.1:1",
        }
    )
    found = health.look(away, within=0)
    assert set(found.troubles) == {"database", "broker"}
    assert found.lag is None


def test_a_frozen_worker_is_not_ready_until_another_moves_its_records(world: World) -> None:
    world.start_worker(IMAGEPIPE_FAULT=FREEZES_IN_A_BATCH)
    world.publish([entity(1, "Donmuş")])
    world.wait_until(a_child_is_frozen, "a worker that freezes in its batch")

    answer = world.run("ready", "--within", "1")
    assert answer.returncode == 1
    assert f"consumer not ready: group {world.settings.kafka_group} recorded" in answer.stderr
    assert "within 1 s, 1 records wait" in answer.stderr

    ready = world.start_worker(*imagepipe("ready", "--within", "60"))
    world.start_worker()
    ready.wait_for_log("ready, 0 records wait")


def a_child_is_frozen() -> bool:
    return any(child.status() == psutil.STATUS_STOPPED for child in psutil.Process().children())
