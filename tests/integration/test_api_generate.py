"""POST /api/ai/generate-image: one purchase, the specification's answer, and no surprises."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from pipeline.generation import Generator
from pipeline.messages import unpack_headers
from pipeline.rules.limits import Limit
from sandbox.faults import Fault
from sandbox.server import Sandbox
from tests.integration.api import ANSWER, PATH, Api, listing
from tests.integration.builders import Steps, asked, eventually, global_limit
from tests.integration.conftest import MakeGenerator, StartApi
from tests.integration.test_deferral import later

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

pytestmark = pytest.mark.usefixtures("sandbox")


async def test_the_specifications_example_is_answered_in_its_shape(
    api: Api, working: Generator, sandbox: Sandbox, steps: Steps
) -> None:
    first = await api.post(listing())
    second = await api.post(listing("  modern   DAİRE "))

    assert (first.status_code, second.status_code) == (200, 200)
    bought, found = first.json(), second.json()
    assert set(bought) == set(found) == ANSWER
    cost = await steps.value("SELECT microusd FROM imagepipe.reservations") / 1_000_000
    assert (bought["success"], bought["cached"], bought["cost"]) == (True, False, cost)
    assert (bought["width"], bought["height"], bought["format"]) == (1792, 1024, "webp")
    assert found == bought | {"cached": True, "cost": 0}
    assert len(sandbox.purchases) == 1


async def test_a_hit_touches_no_limit(api: Api, working: Generator, steps: Steps) -> None:
    await api.post(listing())
    await steps.limit(global_limit(requests=0))

    answer = await api.post(listing())

    assert (answer.status_code, answer.json()["cached"]) == (200, True)


async def test_identical_requests_at_once_are_one_purchase(
    start_api: StartApi, working: Generator, sandbox: Sandbox
) -> None:
    apis = [await start_api(), await start_api()]

    answers = await asyncio.gather(*(apis[n % 2].post(listing()) for n in range(20)))

    bodies = [answer.json() for answer in answers]
    assert {answer.status_code for answer in answers} == {200}
    assert len({body["media_asset_id"] for body in bodies}) == len(sandbox.purchases) == 1
    assert sorted(body["cached"] for body in bodies) == [False] + [True] * 19
    assert sum(body["cost"] for body in bodies) == max(body["cost"] for body in bodies) > 0


async def test_hits_that_come_together_are_written_together(
    api: Api, working: Generator, steps: Steps
) -> None:
    await api.post(listing())
    async with steps.engine.begin() as connection:
        await connection.execute(text("SELECT FROM media_assets FOR UPDATE"))
        asking = [asyncio.create_task(api.post(listing()))]
        await steps.until_blocked()
        asking += [asyncio.create_task(api.post(listing())) for _ in range(20)]
        hits = api.parts.orders._hits  # where they wait for the first one's statement
        await eventually(lambda: len(hits._asking) == 20)
    answers = await asyncio.gather(*asking)

    assert all(answer.json()["cached"] for answer in answers)
    written = "SELECT count(DISTINCT xmin::text) FROM imagepipe.requests WHERE cached"
    assert await steps.value(written) == 2
    assert await steps.value("SELECT usage_count FROM media_assets") == 1 + len(asking)


async def test_a_request_joins_the_picture_that_an_event_asked_for(
    api: Api, steps: Steps, make_generator: MakeGenerator, sandbox: Sandbox
) -> None:
    await steps.ask(asked("event", "Modern Daire"))
    over_http = asyncio.create_task(api.post(listing(options={})))
    await steps.until("SELECT count(*) = 2 FROM imagepipe.requests")
    generator = make_generator()
    await _work_until(generator, over_http)

    assert (await over_http).json()["cached"] is True  # the event came first, and pays
    assert len(sandbox.purchases) == 1
    assert (
        await steps.value("SELECT count(*) FROM imagepipe.outbox WHERE topic = 'image-ready'") == 2
    )


async def _work_until(generator: Generator, task: "asyncio.Task[Any]") -> None:
    running = asyncio.create_task(generator.run())
    await asyncio.wait({task}, timeout=20)
    await generator.stop()
    await running


async def test_a_full_window_refuses_and_leaves_nothing_behind(
    api: Api, working: Generator, steps: Steps
) -> None:
    await steps.limit(global_limit(requests=1), Limit("cap", "global", 86_400, 7, 10_000_000))
    await api.post(listing("first"))
    await later(steps, 600)

    refused = await api.post(listing("second"))

    assert refused.status_code == 429
    body = refused.json()
    retry_after = int(refused.headers["retry-after"])
    assert 2980 < retry_after <= 3000
    assert body["success"] is False
    assert body["error"]["code"] == "rate_limited"
    assert body["rateLimit"] == {
        "allowed": False,
        "reason": body["rateLimit"]["reason"],
        "retryAfter": retry_after,
    }
    assert "test-global (1 requests per 1h)" in body["rateLimit"]["reason"]
    assert refused.headers["ratelimit-policy"] == '"test-global";q=1;w=3600, "cap";q=7;w=86400'
    hour, day = refused.headers["ratelimit"].split(", ")
    assert hour == f'"test-global";r=0;t={retry_after}'
    assert day.startswith('"cap";r=6;t=858')
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 1
    assert await steps.value("SELECT count(*) FROM imagepipe.jobs") == 1
    assert await steps.value("SELECT count(*) FROM imagepipe.reservations") == 1


async def test_what_can_never_fit_is_refused_without_a_time(api: Api, steps: Steps) -> None:
    await steps.limit(global_limit(microusd=10))

    refused = await api.post(listing())

    assert refused.status_code == 429
    assert "retry-after" not in refused.headers
    assert refused.json()["rateLimit"]["retryAfter"] is None


async def test_nobody_passes_equal_work_that_waits(api: Api, steps: Steps) -> None:
    """The window has room for a cheap picture, but a dear one stands first."""
    await steps.limit(global_limit(microusd=120_000))
    await steps.make(asked("spent", "Spent", options={"size": "1792x1024", "quality": "hd"}))
    await steps.ask(asked("waits", "Waits", options={"size": "1792x1024", "quality": "hd"}))

    refused = await api.post(listing(options={}))

    assert refused.status_code == 429
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 2


async def test_a_parked_picture_is_joined_only_by_who_asks_to_wait(
    api: Api, steps: Steps, make_generator: MakeGenerator
) -> None:
    await steps.limit(global_limit(requests=1))
    await steps.make(asked("spent", "Spent"))
    await steps.ask(asked("parked", "Modern Daire"))

    refused = await api.post(listing(options={}))
    parked = await api.post(listing(options={}), prefer="respond-async")

    assert (refused.status_code, parked.status_code) == (429, 202)
    location = parked.headers["location"]
    assert parked.json()["location"] == location == f"{PATH}/{parked.json()['id']}"
    assert (await api.get(location)).json()["state"] == "queued"
    generator = make_generator()
    await generator.step()
    assert (await api.get(location)).json()["state"] == "deferred"

    await later(steps, 3600)
    await _until_finished(generator, api, location)

    ready = (await api.get(location)).json()
    assert ANSWER | {"id", "state"} == set(ready)
    assert (ready["state"], ready["cached"]) == ("ready", True)


async def _until_finished(generator: Generator, api: Api, location: str) -> None:
    running = asyncio.create_task(generator.run())
    async with asyncio.timeout(20):
        while (await api.get(location)).status_code == 202:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await generator.stop()
    await running


@pytest.mark.parametrize("sandbox", [1.0], indirect=True)
async def test_a_wait_that_runs_out_is_no_error(
    start_api: StartApi, working: Generator, sandbox: Sandbox
) -> None:
    api = await start_api(api_wait=0.3)

    answer = await api.post(listing())

    assert answer.status_code == 202
    location = answer.headers["location"]
    async with asyncio.timeout(20):
        while (found := await api.get(location)).status_code == 202:
            assert found.json()["state"] in ("queued", "generating", "uploading")
            await asyncio.sleep(0.05)
    assert (found.status_code, found.json()["cached"]) == (200, False)
    assert len(sandbox.purchases) == 1


@pytest.mark.parametrize("sandbox", [1.0], indirect=True)
async def test_prefer_wait_shortens_the_wait(api: Api, working: Generator) -> None:
    assert (await api.post(listing(), prefer="wait=0")).status_code == 202


async def test_the_money_is_held_when_the_job_is_opened(api: Api, steps: Steps) -> None:
    waiting = asyncio.create_task(api.post(listing()))
    await steps.until("SELECT count(*) = 1 FROM imagepipe.reservations")

    job = await steps.row("SELECT id, state, reserved FROM imagepipe.jobs")
    held = await steps.row("SELECT id, state, source FROM imagepipe.reservations")
    assert (job.state, held.state, held.source) == ("queued", "held", "api")
    assert job.reserved == held.id
    claimed = await steps.claim_one()
    assert claimed.attempt_id == held.id
    await steps.keep(claimed)
    await steps.complete(claimed.job_id)
    assert (await waiting).status_code == 200
    assert await steps.value("SELECT count(*) FROM imagepipe.reservations") == 1


async def test_a_client_that_leaves_before_the_start_is_released(
    api: Api, steps: Steps, make_generator: MakeGenerator
) -> None:
    waiting = asyncio.create_task(api.post(listing()))
    await steps.until("SELECT count(*) = 1 FROM imagepipe.reservations")
    waiting.cancel()
    await asyncio.wait({waiting})
    soon = "SELECT attended_until <= clock_timestamp() + interval '10 s' FROM imagepipe.requests"
    assert await steps.value(soon)
    await steps.execute("UPDATE imagepipe.requests SET attended_until = clock_timestamp()")

    await make_generator(concurrency=0).step()

    [said] = await steps.said("image-failed")
    assert (said.data["code"], said.data["costIncurred"]) == ("abandoned", {"usd": 0})
    assert await steps.value("SELECT state FROM imagepipe.jobs") == "failed"
    money = await steps.row("SELECT state, microusd, requests FROM imagepipe.reservations")
    assert tuple(money) == ("released", 0, 0)


async def test_an_abandoned_picture_is_made_for_an_event_that_waits_too(
    api: Api, steps: Steps, make_generator: MakeGenerator
) -> None:
    waiting = asyncio.create_task(api.post(listing(options={})))
    await steps.until("SELECT count(*) = 1 FROM imagepipe.reservations")
    await steps.ask(asked("event", "Modern Daire"))
    waiting.cancel()
    await asyncio.wait({waiting})
    await steps.execute(
        "UPDATE imagepipe.requests SET attended_until = clock_timestamp() WHERE source = 'api'"
    )

    await make_generator(concurrency=0).step()

    assert await steps.value("SELECT state FROM imagepipe.jobs") == "queued"
    assert await steps.value("SELECT state FROM imagepipe.reservations") == "released"
    await steps.claim_one()


@pytest.mark.parametrize("sandbox", [1.0], indirect=True)
async def test_a_client_that_leaves_after_the_start_gets_its_picture_made(
    api: Api, steps: Steps, working: Generator, sandbox: Sandbox
) -> None:
    waiting = asyncio.create_task(api.post(listing()))
    await steps.until("SELECT count(*) = 1 FROM imagepipe.jobs WHERE state = 'generating'")
    waiting.cancel()
    await asyncio.wait({waiting})

    await steps.until("SELECT count(*) = 1 FROM media_assets")
    assert (await api.post(listing())).json()["cached"] is True
    assert len(sandbox.purchases) == 1


async def test_who_is_still_there_is_attended(api: Api, steps: Steps) -> None:
    waiting = asyncio.create_task(api.post(listing()))
    await steps.until("SELECT count(*) = 1 FROM imagepipe.reservations")
    first = await steps.value("SELECT attended_until FROM imagepipe.requests")

    await api.parts.waiters._attend()

    assert await steps.value("SELECT attended_until FROM imagepipe.requests") > first
    waiting.cancel()
    await asyncio.wait({waiting})


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("moderation_blocked", 422, "policy"),
        ("bad_request", 502, "invalid_value"),
        ("reset", 504, "connection_lost"),
        ("overloaded", 503, "server_is_overloaded"),
    ],
)
async def test_trouble_with_the_provider_has_a_status_and_a_code(
    api: Api,
    working: Generator,
    sandbox: Sandbox,
    steps: Steps,
    *,
    fault: str,
    status: int,
    code: str,
) -> None:
    sandbox.faults.add(Fault("openai", fault, times=9))
    impatient = asyncio.create_task(_hurry(steps))

    answer = await api.post(listing())

    impatient.cancel()
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"success", "error"}
    assert answer.json()["error"]["code"] == code
    assert set(answer.json()["error"]) == {"code", "message", "details"}


async def _hurry(steps: Steps) -> None:
    """Back-off is for patient people."""
    while True:
        await steps.execute("UPDATE imagepipe.jobs SET due_at = clock_timestamp()")
        await steps.execute("UPDATE imagepipe.jobs SET lease_until = clock_timestamp() WHERE false")
        await asyncio.sleep(0.05)


async def test_a_closed_provider_is_said_at_once(api: Api, steps: Steps) -> None:
    await steps.execute("""
        INSERT INTO imagepipe.circuits (model, code, message, failures, paused_until)
        VALUES ('gpt-image-2.5-flare', 'insufficient_quota', 'no credit', 1,
                clock_timestamp() + interval '60 s')
    """)

    answer = await api.post(listing())
    parked = await api.post(listing(), prefer="respond-async")

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "provider_unavailable")
    assert 50 < int(answer.headers["retry-after"]) <= 60
    assert parked.status_code == 202
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 1


async def test_the_outcome_event_carries_the_trace(
    api: Api, working: Generator, steps: Steps
) -> None:
    await api.post(listing(), traceparent=TRACE)
    await api.post(listing(), traceparent=TRACE.replace("b7ad", "c7ad"))

    rows = await steps.rows("SELECT headers FROM imagepipe.outbox ORDER BY id")
    traces = [dict(unpack_headers(row.headers))["traceparent"] for row in rows]
    assert traces == [TRACE.encode(), TRACE.replace("b7ad", "c7ad").encode()]


async def test_a_dry_run_changes_nothing(api: Api, working: Generator, steps: Steps) -> None:
    await steps.limit(global_limit(requests=1))
    new = (await api.post(listing(), query="?dryRun=true")).json()
    assert (new["hit"], new["joins"], new["mediaAssetId"]) == (False, None, None)
    assert new["rateLimit"] == {"allowed": True, "retryAfter": 0}
    assert new["upperBound"] > 0.107
    assert "Modern Daire" in new["prompt"]
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 0

    bought = (await api.post(listing())).json()
    known = (await api.post(listing(), query="?dryRun=true")).json()
    other = (await api.post(listing("Other"), query="?dryRun=true")).json()

    assert (known["hit"], known["mediaAssetId"]) == (True, bought["media_asset_id"])
    assert known["contextHash"] == new["contextHash"]
    assert other["rateLimit"]["allowed"] is False
    assert other["rateLimit"]["retryAfter"] == 3600
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 1


async def test_an_unknown_request_is_not_found(api: Api) -> None:
    answer = await api.get(f"{PATH}/6e9e2f0e-7c39-5d7c-9a0a-52f9a3f6c7d1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_a_deleted_picture_is_gone(api: Api, working: Generator, steps: Steps) -> None:
    await api.post(listing())
    request = await steps.value("SELECT id FROM imagepipe.requests")
    await steps.execute("DELETE FROM media_assets")

    assert (await api.get(f"{PATH}/{request}")).status_code == 410
