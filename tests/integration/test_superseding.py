"""A newer event for the same entity replaces an earlier one that nobody has paid for yet."""

from dataclasses import replace

from pipeline.preparation import Prepared, prepare
from pipeline.requests import API
from pipeline.rules.lifecycle import Source
from schemas.request import EntityCreated
from tests.integration.builders import CMS, FLARE, Steps, request_data

ENTITY = "house-7"


def event(event_id: str, title: str, entity: str = ENTITY, **fields: object) -> Prepared:
    request = EntityCreated.from_wire(request_data(title, entity, **fields))
    return prepare(request, FLARE, event_source=CMS, event_id=event_id, source=Source.LIVE)


async def states(steps: Steps) -> dict[str, str]:
    rows = await steps.rows("SELECT event_id, state FROM imagepipe.requests")
    return {row.event_id: row.state for row in rows}


async def test_the_earlier_request_ends_and_its_picture_is_not_bought(steps: Steps) -> None:
    await steps.ask(event("first", "Old title"))
    await steps.ask(event("second", "New title"))

    assert await states(steps) == {"first": "failed", "second": "waiting"}
    [failed] = await steps.said("image-failed")
    assert failed.data["causation"]["id"] == "first"
    assert (failed.data["code"], failed.data["errorClass"]) == ("superseded", "permanent")
    assert failed.data["costIncurred"] == {"usd": 0.0}
    assert [claimed.job_id for claimed in (await steps.claim()).claimed] == [
        event("second", "New title").id
    ]


async def test_within_one_batch_the_last_event_of_an_entity_counts(steps: Steps) -> None:
    await steps.ask(*(event(f"event-{n}", f"Title {n}") for n in range(5)))

    assert [id_ for id_, state in (await states(steps)).items() if state == "waiting"] == [
        "event-4"
    ]
    assert len((await steps.claim()).claimed) == 1


async def test_a_picture_others_wait_for_is_still_made(steps: Steps) -> None:
    await steps.ask(event("ours", "Shared"), event("theirs", "Shared", "another-house"))
    await steps.ask(event("newer", "New title"))

    assert await states(steps) == {"ours": "failed", "theirs": "waiting", "newer": "waiting"}
    assert len((await steps.claim()).claimed) == 2


async def test_asking_for_the_same_again_keeps_the_job_for_the_newer_event(steps: Steps) -> None:
    await steps.ask(event("first", "Same"))
    await steps.ask(event("second", "Same"))
    claimed = await steps.claim_one()
    await steps.keep(claimed)
    await steps.complete(claimed.job_id)

    assert await states(steps) == {"first": "failed", "second": "ready"}
    [ready] = await steps.said("image-ready")
    assert (ready.data["causation"]["id"], ready.data["cached"]) == ("second", False)


async def test_what_is_being_paid_for_is_not_superseded(steps: Steps) -> None:
    await steps.ask(event("first", "Old title"))
    claimed = await steps.claim_one()
    await steps.ask(event("second", "New title"))
    await steps.keep(claimed)
    await steps.complete(claimed.job_id)

    assert await states(steps) == {"first": "ready", "second": "waiting"}


async def test_another_kind_or_size_of_picture_stands_beside(steps: Steps) -> None:
    await steps.ask(
        event("square", "Title"),
        event("wide", "Title", options={"size": "1792x1024"}),
        event("article", "Title", type="article"),
    )

    assert set((await states(steps)).values()) == {"waiting"}


async def test_a_hit_supersedes_too(steps: Steps) -> None:
    await steps.make(event("elsewhere", "Known", "another-house"))
    await steps.ask(event("first", "Unknown"))
    await steps.ask(event("second", "Known"))

    assert await states(steps) == {"elsewhere": "ready", "first": "failed", "second": "ready"}
    assert (await steps.claim()).claimed == []


async def test_an_earlier_event_that_comes_again_changes_nothing(steps: Steps) -> None:
    await steps.ask(event("first", "Old title"))
    await steps.ask(event("second", "New title"))
    await steps.ask(event("first", "Old title"))

    assert await states(steps) == {"first": "failed", "second": "waiting"}
    assert len(await steps.said("image-failed")) == 1


async def test_a_request_over_http_supersedes_nothing_and_is_not_superseded(steps: Steps) -> None:
    await steps.ask(event("event", "First"))
    await steps.ask(replace(event("http", "Second"), event_source=API))
    assert await steps.value("SELECT count(*) FROM imagepipe.requests WHERE state = 'failed'") == 0

    await steps.ask(event("newer", "Third"))

    rows = await steps.rows("SELECT event_id, state FROM imagepipe.requests ORDER BY sequence")
    assert [tuple(row) for row in rows] == [
        ("event", "failed"),
        ("http", "waiting"),
        ("newer", "waiting"),
    ]
