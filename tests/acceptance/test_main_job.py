"""Events in, pictures and image-ready events out, as the commands and Kafka's own tools show it."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.acceptance.harness import PATIENCE, Outcomes, World, entity, imagepipe

REQUIRED_HEADERS = {
    "ce_specversion": "1.0",
    "ce_source": "urn:imagepipe",
    "ce_type": "imagepipe.image-ready.v1",
    "content-type": "application/json",
}


def cloud_event(number: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": number,
        "source": "urn:test:cms",
        "type": "cms.entity-created.v1",
        "data": data,
    }


def causes(outcomes: Outcomes) -> list[str]:
    return sorted(ready.data["causation"]["id"] for ready in outcomes.ready)


def test_each_accepted_form_becomes_an_image_ready_event(world: World) -> None:
    world.start_worker()
    plain, enveloped, raw = (entity(n, f"Karasu'da yazlık {n}") for n in (1, 2, 3))

    world.publish([plain, cloud_event("event-2", enveloped)])
    world.produce([(b"listing:3", json.dumps(raw).encode(), [("id", b"event-3")])])

    seen = [watched(line) for line in watch(world, count=3)]
    assert sorted(record["key"] for record in seen) == ["listing:1", "listing:2", "listing:3"]
    assert {record["topic"] for record in seen} == {world.settings.topic_image_ready}
    for record in seen:
        headers, data = record["headers"], record["data"]
        assert headers | REQUIRED_HEADERS == headers
        assert headers["ce_subject"] == record["key"]
        assert headers["ce_time"] == data["occurredAt"]
        assert data["cached"] is False
        assert data["cost"]["basis"] == "actual"
        assert data["provenance"]["aiGenerated"] is True
    assert len({record["headers"]["ce_id"] for record in seen}) == 3
    outcomes = world.outcomes(ready=3)
    assert {"event-2", "event-3"} < set(causes(outcomes))
    for ready in outcomes.ready:
        assert (
            stored_picture(world, ready.data["asset"]["publicId"]) == ready.data["asset"]["bytes"]
        )


def watch(world: World, *, count: int) -> list[str]:
    answer = world.run("watch", "--json", "--from-beginning", "--count", str(count))
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


def watched(line: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(line)
    return record


def stored_picture(world: World, public_id: str) -> int:
    """How many bytes the media host keeps under this id."""
    [asset] = [asset for asset in world.sandbox.uploads if asset.public_id == public_id]
    return asset.bytes


def test_kcat_reads_the_documented_headers(world: World) -> None:
    if shutil.which("kcat") is None:
        pytest.skip("kcat is not installed")
    if world.settings.embedded_broker:
        pytest.skip("kcat is tried against Apache Kafka")
    world.start_worker()
    world.publish([entity(1, "Karasu'da yazlık")])
    [ready] = world.outcomes(ready=1).ready

    broker, topic = world.settings.kafka_bootstrap_servers, world.settings.topic_image_ready
    answer = subprocess.run(
        ["kcat", "-b", broker, "-t", topic, "-C", "-e", "-q", "-J"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )

    record = json.loads(answer.stdout)
    names, values = record["headers"][::2], record["headers"][1::2]
    assert record["key"] == "listing:1"
    assert json.loads(record["payload"]) == ready.data
    assert dict(zip(names, values, strict=True)) == REQUIRED_HEADERS | {
        "ce_id": ready.id,
        "ce_subject": "listing:1",
        "ce_time": ready.data["occurredAt"],
    }


def test_the_same_rows_again_cost_nothing_and_the_same_event_again_says_nothing(
    world: World,
) -> None:
    world.start_worker()
    rows = [entity(n, f"Sapanca'da villa {n}") for n in range(3)]
    event = cloud_event("event-1", entity(9, "Kocaali'de ev"))
    world.publish([*rows, event])
    first = world.outcomes(ready=4)
    assert len(first.bought) == len(world.sandbox.purchases) == 4

    world.publish(rows)
    second = world.outcomes(ready=7)

    again = [ready for ready in second.ready if ready.data["cached"]]
    assert len(again) == 3
    assert len({ready.id for ready in second.ready}) == 7
    for ready in again:
        [bought] = [one for one in second.bought if one.key == ready.key]
        assert ready.data["cost"] == {"usd": 0.0, "basis": "cached"}
        assert ready.data["asset"] == bought.data["asset"]
        assert ready.data["sequence"] > bought.data["sequence"]

    # A later event of the same entity is read after the redelivery, and answered after it.
    world.publish([event, cloud_event("event-2", entity(9, "Kocaali'de ev"))])
    third = world.outcomes(ready=8)

    assert [ready.data["causation"]["id"] for ready in third.of("listing:9")] == [
        "event-1",
        "event-2",
    ]
    assert len(world.sandbox.purchases) == 4


def test_fifty_identical_events_through_several_workers_are_one_purchase(
    world: World,
) -> None:
    workers = [world.start_worker() for _ in range(3)]
    for worker in workers:
        worker.wait_for_log("Ready")

    world.publish([entity(n, "Aynı daire") for n in range(50)])

    outcomes = world.outcomes(ready=50)
    assert len(world.sandbox.purchases) == 1
    assert len(outcomes.bought) == 1
    assert sum(ready.data["cost"]["usd"] > 0 for ready in outcomes.ready) == 1
    assert len({ready.data["asset"]["mediaAssetId"] for ready in outcomes.ready}) == 1
    assert {ready.key for ready in outcomes.ready} == {f"listing:{n}" for n in range(50)}
    assert sum("batch recorded" in worker.log for worker in workers) > 1


def test_faust_itself_runs_the_worker(world: World) -> None:
    [python, *_] = imagepipe()
    worker = world.start_worker(python, "-m", "faust", "-A", "agents.app", "worker", "-l", "info")

    world.publish([entity(1, "Karasu'da yazlık")])

    assert len(world.outcomes(ready=1).bought) == 1
    assert worker.stop() == 0
