"""GET /api/ai/generate-image, the pictures, the probes."""

from datetime import UTC, datetime

import pytest

from pipeline.api import keys
from pipeline.api.keys import Scope
from pipeline.generation import Generator
from sandbox.faults import Fault
from sandbox.server import Sandbox
from tests.integration.api import Api, listing
from tests.integration.builders import Steps, asked, global_limit
from tests.integration.conftest import StartApi
from tests.integration.test_deferral import later

IMAGES = "/api/ai/images"

pytestmark = pytest.mark.usefixtures("sandbox")


async def test_limits_and_todays_bill_are_as_specified(
    api: Api, working: Generator, sandbox: Sandbox, steps: Steps
) -> None:
    await api.post(listing())
    await api.post(listing())
    sandbox.faults.add(Fault("openai", "moderation_blocked"))
    await api.post(listing("Refused"))

    answer = await api.get()

    body = answer.json()
    cost = await steps.value("SELECT sum(microusd) FROM imagepipe.reservations")
    assert body["rateLimit"] == {"allowed": True, "retryAfter": 0}
    assert body["stats"] == {
        "today": {"count": 2, "success": 1, "failed": 1, "cost": int(cost) / 1_000_000}
    }
    assert (body["cached"], body["saved"]) == (1, int(cost) / 1_000_000)
    hour = body["limits"][0]
    assert (hour["name"], hour["used"]["requests"], hour["remaining"]["requests"]) == (
        "hour",
        1,
        19,
    )
    assert body["queue"]["queued"] == 0
    assert body["provider"] == []
    assert body["model"] == {"name": "gpt-image-2.5-flare", "shutdownDate": None}
    assert answer.headers["ratelimit-policy"].startswith('"hour";q=20;w=3600')


async def test_a_full_window_says_why_and_until_when(api: Api, steps: Steps) -> None:
    await steps.limit(global_limit(requests=1))
    await steps.make(asked("a"))
    await later(steps, 1000)

    body = (await api.get()).json()

    assert body["rateLimit"]["allowed"] is False
    assert body["rateLimit"]["retryAfter"] in (2599, 2600)
    assert body["rateLimit"]["reason"].startswith("The limit test-global (1 requests per 1h)")
    frees_at = datetime.fromisoformat(body["limits"][0]["freesAt"])
    assert 2590 < (frees_at - datetime.now(UTC)).total_seconds() <= 2600


async def test_work_that_waits_comes_first_in_the_judgement_too(api: Api, steps: Steps) -> None:
    await steps.limit(global_limit(microusd=120_000))
    await steps.make(asked("spent", "Spent", options={"size": "1792x1024", "quality": "hd"}))
    assert (await api.get()).json()["rateLimit"]["allowed"] is True
    await steps.ask(asked("waits", "Waits", options={"size": "1792x1024", "quality": "hd"}))
    assert (await api.get()).json()["rateLimit"]["allowed"] is False


async def test_a_day_is_one_of_the_configured_time_zone(start_api: StartApi, steps: Steps) -> None:
    await steps.make(asked("a"))
    here = await start_api(timezone="UTC")
    there = await start_api(timezone="Pacific/Kiritimati")  # fourteen hours ahead
    midnight_there = "(date_trunc('day', now() AT TIME ZONE :zone) AT TIME ZONE :zone)"
    await steps.execute(
        f"UPDATE imagepipe.attempts SET finished_at = {midnight_there} - interval '1 s'",
        zone="Pacific/Kiritimati",
    )
    in_utc = await steps.value(
        "SELECT finished_at >= date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"
        " FROM imagepipe.attempts"
    )

    counts = [(await api.get()).json()["stats"]["today"]["success"] for api in (here, there)]

    assert counts == [int(in_utc), 0]


async def test_pictures_are_paged_newest_first(api: Api, steps: Steps) -> None:
    for n in range(5):
        await steps.make(asked(f"{n}", f"Title {n}"))

    pages, cursor = [], ""
    while True:
        page = (await api.get(f"{IMAGES}?limit=2{cursor}")).json()
        pages.append([image["title"] for image in page["images"]])
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"

    assert pages == [["Title 4", "Title 3"], ["Title 2", "Title 1"], ["Title 0"]]


async def test_pictures_are_found_by_entity_type_and_day(api: Api, steps: Steps) -> None:
    await steps.make(asked("1", "Villa"), asked("2", "Daire"))
    await steps.ask(asked("3", "Villa"))  # another entity gets the same picture
    await steps.execute("""
        INSERT INTO media_assets (cloudinary_public_id, cloudinary_url, cloudinary_secure_url,
            asset_type) VALUES ('photo', 'http://x/p.jpg', 'https://x/p.jpg', 'listing_image')
    """)

    async def titles(query: str) -> list[str]:
        return [image["title"] for image in (await api.get(f"{IMAGES}?{query}")).json()["images"]]

    today = await steps.value("SELECT CAST(now() AT TIME ZONE 'UTC' AS date)")
    assert sorted(await titles("")) == ["Daire", "Villa"]
    assert await titles("entityType=listing&entityId=3") == ["Villa"]
    assert await titles("entityId=2") == ["Daire"]
    assert await titles("entityType=news") == []
    assert sorted(await titles(f"type=listing&day={today}")) == ["Daire", "Villa"]
    assert await titles("type=hero") == []
    assert await titles("day=2020-02-29") == []


async def test_one_picture_has_its_origin(api: Api, steps: Steps) -> None:
    await steps.make(asked("1", "Villa"))
    [listed] = (await api.get(IMAGES)).json()["images"]

    one = (await api.get(f"{IMAGES}/{listed['id']}")).json()

    assert one == listed
    assert one["entity"] == {"type": "listing", "id": "1"}
    assert one["provenance"]["aiGenerated"] is True
    assert (one["model"]["name"], one["type"]) == ("gpt-image-2.5-flare", "listing")
    missing = await api.get(f"{IMAGES}/6e9e2f0e-7c39-5d7c-9a0a-52f9a3f6c7d1")
    assert missing.status_code == 404


async def test_a_picture_that_the_cms_uses_otherwise_is_shown_all_the_same(
    api: Api, steps: Steps
) -> None:
    await steps.make(asked("1", "Villa"))
    await steps.execute("UPDATE media_assets SET entity_type = 'page', alt_text = NULL")

    [image] = (await api.get(IMAGES)).json()["images"]

    assert (image["entity"], image["alt"]) == (None, None)


@pytest.mark.parametrize(
    "query",
    [
        "cursor=x",
        "cursor=MjAyNi0wMS0wMS8",
        "limit=0",
        "limit=101",
        "day=yesterday",
        "entityType=yacht",
        "entityId=%00",
        "type=yacht",
    ],
)
async def test_a_wrong_filter_is_named(api: Api, query: str) -> None:
    answer = await api.get(f"{IMAGES}?{query}")
    assert answer.status_code == 422
    assert query.partition("=")[0] in answer.json()["error"]["message"]


async def test_the_process_is_alive_whatever_is_away(api: Api) -> None:
    assert (await api.get("/healthz")).json() == {"status": "alive"}
    ready = await api.get("/readyz")
    assert ready.status_code == 503  # there is no broker here
    assert set(ready.json()["notReady"]) == {"broker"}
    assert "127.0.0.1:1" in ready.json()["notReady"]["broker"]


async def test_strangers_are_not_told_why_something_is_not_ready(start_api: StartApi) -> None:
    secret, key = keys.new_key("reads", frozenset({Scope.READ}))
    api = await start_api(api_keys=str(key))
    assert (await api.get("/readyz")).json()["notReady"] == {"broker": "not ready"}
    told = await api.get("/readyz", authorization=f"Bearer {secret}")
    assert "127.0.0.1:1" in told.json()["notReady"]["broker"]


async def test_metrics_count_and_name_no_entity(api: Api, working: Generator, steps: Steps) -> None:
    before = (await api.get("/metrics")).text
    await api.post(listing())
    await api.post(listing())

    page = (await api.get("/metrics")).text

    def value(text: str, metric: str) -> float:
        found = [line for line in text.splitlines() if line.startswith(metric + " ")]
        return float(found[0].split()[-1]) if found else 0.0

    labels = '{model="gpt-image-2.5-flare",type="listing"}'
    for metric in (f"imagepipe_purchases_total{labels}", 'imagepipe_hits_total{source="api"}'):
        assert value(page, metric) == value(before, metric) + 1
    spent = await steps.value("SELECT sum(microusd) FROM imagepipe.reservations")
    spend = f"imagepipe_spend_usd_total{labels}"
    assert value(page, spend) - value(before, spend) == pytest.approx(int(spent) / 1_000_000)
    assert value(page, 'imagepipe_window_remaining_requests{limit="hour",scope="global"}') == 19
    assert value(page, 'imagepipe_jobs{state="queued"}') == 0
    assert "listing-id" not in page
