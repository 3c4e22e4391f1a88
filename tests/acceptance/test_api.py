"""The HTTP API as real processes: behind a balancer, killed, misconfigured, restarted."""

import json
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from schemas.examples import LISTING
from tests.acceptance.conftest import NewWorld
from tests.acceptance.harness import PATIENCE, Running, World, entity, imagepipe, wait_until

PATH = "/api/ai/generate-image"


def start_api(world: World, **variables: str) -> tuple[Running, str]:
    """Start `imagepipe api` on a free port; the process and its address."""
    api = world.start_worker(*imagepipe("api"), IMAGEPIPE_API_PORT="0", **variables)
    api.wait_for_log("imagepipe API on ")
    found = re.search(r"imagepipe API on (\S+),", api.log)
    assert found
    return api, found[1]


def post(address: str, body: dict[str, Any], **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.post(address + PATH, json=body, headers=named, timeout=PATIENCE)


def test_a_hundred_identical_requests_at_two_servers_are_one_purchase(
    new_world: NewWorld,
) -> None:
    world = new_world(latency=1.0)
    world.start_worker()
    addresses = [start_api(world)[1] for _ in range(2)]

    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(lambda n: post(addresses[n % 2], LISTING), range(100)))

    assert {answer.status_code for answer in answers} == {200}
    bodies = [answer.json() for answer in answers]
    shared = [{k: v for k, v in body.items() if k not in ("cached", "cost")} for body in bodies]
    assert all(body == shared[0] for body in shared)
    assert [body["cached"] for body in bodies].count(False) == 1
    assert len(world.sandbox.purchases) == 1
    assert len({outcome.id for outcome in world.outcomes(ready=100).ready}) == 100


def test_a_killed_server_loses_no_picture_that_somebody_waited_for(new_world: NewWorld) -> None:
    world = new_world(latency=2.0)
    world.start_worker()
    api, address = start_api(world)
    lost: list[Exception] = []

    def ask() -> None:
        try:
            post(address, LISTING, idempotency_key="order-1")
        except httpx2.HTTPError as error:
            lost.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    world.wait_until(lambda: world.sandbox.requests("openai") == 1, "the call")
    api.kill()
    asking.join()
    assert lost

    _, address = start_api(world)
    answer = post(address, LISTING, idempotency_key="order-1")

    assert (answer.status_code, answer.json()["cached"]) == (200, False)
    assert len(world.sandbox.purchases) == 1
    assert world.query("SELECT count(*) FROM imagepipe.requests") == [(1,)]


def test_a_server_that_is_asked_to_leave_tells_those_who_wait_where_to_ask(
    new_world: NewWorld,
) -> None:
    world = new_world(latency=3.0)
    world.start_worker()
    api, address = start_api(world)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(post, address, LISTING)
        world.wait_until(lambda: world.sandbox.requests("openai") == 1, "the call")
        assert api.stop() == 0
        answer = waiting.result()
    assert answer.status_code == 202

    _, address = start_api(world)
    location = answer.headers["location"]
    wait_until(lambda: httpx2.get(address + location).status_code == 200, "the picture")
    assert httpx2.get(address + location).json()["state"] == "ready"


def test_events_and_requests_share_their_pictures(world: World) -> None:
    world.start_worker()
    _, address = start_api(world)
    world.publish([entity(1, "Modern Daire")])
    world.outcomes(ready=1)

    same = {"type": "listing", "context": {"title": "MODERN DAIRE"}}
    answer = post(address, same)

    assert answer.json()["cached"] is True
    ready = world.outcomes(ready=2).ready
    assert len(world.sandbox.purchases) == 1
    assert [outcome.data["entity"] for outcome in ready].count(None) == 1


def test_a_ready_server_says_so_and_metrics_of_the_worker_are_served(world: World) -> None:
    from tests.kafka.server import free_ports

    [port] = free_ports(1)
    worker = world.start_worker(IMAGEPIPE_METRICS_PORT=str(port))
    worker.wait_for_log("Ready")
    _, address = start_api(world)

    world.wait_until(
        lambda: httpx2.get(f"{address}/readyz").status_code == 200, "a server that is ready"
    )
    world.publish([entity(1, "Ölçü")])
    world.outcomes(ready=1)
    page = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'imagepipe_events_total{outcome="waiting"} 1.0' in page
    assert 'imagepipe_purchases_total{model="gpt-image-2.5-flare",type="listing"} 1.0' in page
    assert 'imagepipe_event_to_ready_seconds_count{cached="false"} 1.0' in page
    assert worker.stop() == 0


def test_logs_in_json_carry_the_trace_from_the_request_to_the_purchase(world: World) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    worker = world.start_worker(IMAGEPIPE_LOG_FORMAT="json")
    api, address = start_api(world, IMAGEPIPE_LOG_FORMAT="json")
    from sandbox.faults import Fault

    world.sandbox.faults.add(Fault("openai", "moderation_blocked"))
    post(address, LISTING, traceparent=trace, x_request_id="mine")

    def lines(log: str, event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    world.wait_until(lambda: lines(api.log, "request"), "the line of the API")
    [request] = lines(api.log, "request")
    assert (request["request_id"], request["traceparent"]) == ("mine", trace)
    assert (request["status"], request["route"]) == (422, PATH)
    world.wait_until(lambda: lines(worker.log, "generation failed"), "the worker's line")
    [failure] = lines(worker.log, "generation failed")
    assert failure["traceparent"] == trace
    assert failure["job"] == request["job"]
    assert failure["event_id"]


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"IMAGEPIPE_API_HOST": "0.0.0.0"}, "IMAGEPIPE_API_KEYS"),
        ({"IMAGEPIPE_API_KEYS": "cms:read:abc"}, "key 1 is not NAME:SCOPES:SHA256"),
        ({"IMAGEPIPE_API_KEYS": f"cms:write:{'0' * 64}"}, "'write' is no scope"),
        ({"IMAGEPIPE_API_KEYS": ",".join([f"cms:read:{'0' * 64}"] * 2)}, "used twice"),
        ({"IMAGEPIPE_API_HOST": "256.1.1.1", "IMAGEPIPE_API_KEYS": f"a:read:{'0' * 64}"}, "listen"),
        ({"IMAGEPIPE_TIMEZONE": "Mars/Olympus"}, "IMAGEPIPE_TIMEZONE"),
        ({"IMAGEPIPE_DATABASE_URL": ""}, "DATABASE_URL"),
    ],
)
def test_a_wrong_configuration_ends_with_one_line(
    world: World, variables: dict[str, str], says: str
) -> None:
    answer = subprocess.run(
        imagepipe("api"),
        env=world.shell | {"IMAGEPIPE_API_PORT": "0"} | variables,
        cwd=world.directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert answer.returncode == 2
    [line] = answer.stderr.splitlines()
    assert says in line
    assert "0" * 64 not in line


def test_a_new_key_opens_the_api(world: World) -> None:
    made = json.loads(world.run("api-key", "cms", "--scope", "read", "--json").stdout)
    _, address = start_api(world, IMAGEPIPE_API_KEYS=made["entry"])

    answer = httpx2.get(
        address + PATH, headers={"authorization": f"Bearer {made['key']}", "host": "cms.example"}
    )
    assert answer.status_code == 200
    assert made["key"] not in made["entry"]
    assert world.run("api-key", "a b").returncode == 2
