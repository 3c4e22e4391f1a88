"""Idempotency-Key: a client that asks again, for whatever reason, gets the same answer."""

import asyncio

import pytest

from pipeline.api import keys
from pipeline.api.keys import Scope
from pipeline.generation import Generator
from sandbox.faults import Fault
from sandbox.server import Sandbox
from tests.integration.api import PATH, Api, listing
from tests.integration.builders import Steps, global_limit
from tests.integration.conftest import StartApi

pytestmark = pytest.mark.usefixtures("sandbox")


async def test_the_same_key_gets_the_same_answer_even_past_the_cache(
    api: Api, working: Generator, sandbox: Sandbox, steps: Steps
) -> None:
    body = listing(skipCache=True)
    first = await api.post(body, idempotency_key="order-1")
    await steps.execute("DELETE FROM media_assets")

    again = await api.post(dict(reversed(body.items())), idempotency_key="order-1")

    assert (again.status_code, again.json()) == (200, first.json())
    assert len(sandbox.purchases) == 1
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 1


async def test_another_body_under_the_same_key_is_refused(api: Api, working: Generator) -> None:
    await api.post(listing(), idempotency_key="order-1")

    answer = await api.post(listing("Other"), idempotency_key="order-1")

    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "idempotency_key_reused"


async def test_the_same_key_at_once_is_one_request(
    start_api: StartApi, working: Generator, sandbox: Sandbox, steps: Steps
) -> None:
    apis = [await start_api(), await start_api()]
    body = listing(skipCache=True)

    answers = await asyncio.gather(
        *(apis[n % 2].post(body, idempotency_key="order-1") for n in range(10))
    )

    assert {answer.text for answer in answers} == {answers[0].text}
    assert answers[0].status_code == 200
    assert len(sandbox.purchases) == 1
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 1


async def test_a_refusal_by_a_limit_is_not_kept(api: Api, working: Generator, steps: Steps) -> None:
    await steps.limit(global_limit(requests=0))
    refused = await api.post(listing(), idempotency_key="order-1")
    await steps.limit(global_limit(requests=1))

    answer = await api.post(listing("Other"), idempotency_key="order-1")

    assert (refused.status_code, answer.status_code) == (429, 200)


async def test_a_failure_that_may_pass_is_not_kept_and_a_final_one_is(
    api: Api, working: Generator, sandbox: Sandbox
) -> None:
    sandbox.faults.add(Fault("openai", "bad_request"))
    failed = await api.post(listing(), idempotency_key="order-1")
    answer = await api.post(listing(), idempotency_key="order-1")
    assert (failed.status_code, answer.status_code) == (502, 200)

    sandbox.faults.add(Fault("openai", "moderation_blocked"))
    refused = await api.post(listing("Refused"), idempotency_key="order-2")
    again = await api.post(listing("Refused"), idempotency_key="order-2")
    assert (refused.status_code, again.status_code) == (422, 422)
    assert again.json() == refused.json()


async def test_a_key_belongs_to_its_api_key(start_api: StartApi, working: Generator) -> None:
    secrets, entries = zip(
        *(keys.new_key(name, frozenset(Scope)) for name in ("cms", "app")), strict=True
    )
    api = await start_api(api_keys=",".join(map(str, entries)))
    mine, theirs = (f"Bearer {secret}" for secret in secrets)

    first = await api.post(listing(), idempotency_key="order-1", authorization=mine)
    second = await api.post(listing("Other"), idempotency_key="order-1", authorization=theirs)

    assert (first.status_code, second.status_code) == (200, 200)


async def test_a_key_is_forgotten_after_a_day(api: Api, working: Generator, steps: Steps) -> None:
    await api.post(listing(), idempotency_key="order-1")
    await steps.execute(
        "UPDATE imagepipe.idempotency_keys SET created_at = created_at - interval '24 hours'"
    )
    assert (await api.post(listing("Other"), idempotency_key="order-1")).status_code == 200

    await steps.execute(
        "UPDATE imagepipe.idempotency_keys SET created_at = created_at - interval '24 hours'"
    )
    await api.parts.waiters._tidy()
    assert await steps.value("SELECT count(*) FROM imagepipe.idempotency_keys") == 0


async def test_a_parked_request_is_found_again_by_its_key(
    api: Api, working: Generator, steps: Steps
) -> None:
    await steps.limit(global_limit(requests=0))
    headers = {"idempotency_key": "order-1", "prefer": "respond-async"}
    first = await api.post(listing(), **headers)
    second = await api.post(listing(), **headers)

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.headers["location"] == second.headers["location"]
    assert first.headers["location"].startswith(PATH)
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 1


@pytest.mark.parametrize("key", ["", "ü", "a" * 256, "two words"])
async def test_a_malformed_key_is_refused(api: Api, key: str) -> None:
    answer = await api.client.post(
        PATH, json=listing(), headers=[(b"Idempotency-Key", key.encode())]
    )
    assert answer.status_code == 422
    assert "Idempotency-Key" in answer.json()["error"]["message"]


async def test_a_client_that_comes_back_to_park_is_parked(api: Api, steps: Steps) -> None:
    waiting = asyncio.create_task(api.post(listing(), idempotency_key="order-1"))
    await steps.until("SELECT count(*) = 1 FROM imagepipe.requests WHERE attended_until > now()")
    waiting.cancel()
    await asyncio.wait({waiting})

    parked = await api.post(listing(), idempotency_key="order-1", prefer="respond-async")

    assert parked.status_code == 202
    assert await steps.value("SELECT attended_until FROM imagepipe.requests") is None


async def test_a_client_that_comes_back_to_wait_is_there_again(api: Api, steps: Steps) -> None:
    waiting = asyncio.create_task(api.post(listing(), idempotency_key="order-1"))
    await steps.until("SELECT count(*) = 1 FROM imagepipe.requests WHERE attended_until > now()")
    waiting.cancel()
    await asyncio.wait({waiting})
    nearly = "clock_timestamp() + interval '1 s'"
    await steps.execute(f"UPDATE imagepipe.requests SET attended_until = {nearly}")

    again = asyncio.create_task(api.post(listing(), idempotency_key="order-1"))

    await steps.until(f"SELECT attended_until > {nearly} FROM imagepipe.requests")
    again.cancel()
    await asyncio.wait({again})
