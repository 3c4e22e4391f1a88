"""Hits: one statement, and the same message as everywhere else."""

import json
from dataclasses import replace

from sqlalchemy import event

from pipeline import answers, hits, requests
from pipeline.answers import FREE
from pipeline.messages import unpack_headers
from schemas.outcomes import ImageReady
from tests.integration.builders import TOPICS, Steps, asked


async def test_the_message_is_what_the_models_say(steps: Steps) -> None:
    await steps.make(asked("first", "Gün 'batımı' \"İzmir\" \\ ✓"))
    hit = asked(
        "hit", "Gün 'batımı' \"İzmir\" \\ ✓", upload={"entityType": "news", "entityId": "ö"}
    )
    hit = replace(hit, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")

    async with steps.engine.begin() as connection:
        entries = await hits.record(connection, [hit], topics=TOPICS, trial=False)

    [entry] = entries.values()
    assert entry.asset is not None
    expected = answers.ready(TOPICS, requests.asker(hit, entry.sequence), entry.asset, FREE)
    row = await steps.row("SELECT * FROM imagepipe.outbox WHERE request_id = :id", id=hit.id)
    said, wanted = json.loads(row.value), json.loads(expected.value or b"")
    said.pop("occurredAt")
    wanted.pop("occurredAt")
    assert said == wanted
    ImageReady.model_validate_json(row.value)
    headers, expected_headers = dict(unpack_headers(row.headers)), dict(expected.headers)
    headers.pop("ce_time")
    expected_headers.pop("ce_time")
    assert headers == expected_headers
    assert (row.topic, bytes(row.key)) == (expected.topic, expected.key)


async def test_a_hit_without_an_entity_has_the_requests_own_key(steps: Steps) -> None:
    await steps.make(asked("first"))
    hit = asked("hit", upload={"entityType": "listing", "entityId": "1"})
    request = hit.request.model_copy(
        update={
            "upload": hit.request.upload.model_copy(update={"entity_type": None, "entity_id": None})
        }
    )
    await steps.ask(replace(hit, request=request))

    said = (await steps.said("image-ready"))[-1]
    assert (said.key, said.data["entity"]) == (str(hit.id), None)
    assert await steps.value("SELECT count(*) FROM imagepipe.entity_images") == 1


async def test_a_batch_of_hits_is_one_statement(steps: Steps) -> None:
    await steps.make(asked("a"))
    sent: list[str] = []
    event.listen(
        steps.engine.sync_engine, "before_cursor_execute", lambda *given: sent.append(given[2])
    )

    recorded = await steps.ask(*(asked(f"{n}") for n in range(50)))

    assert (recorded.new, recorded.hits, len(sent)) == (50, 50, 1)
    assert await steps.value("SELECT usage_count FROM media_assets") == 51


async def test_only_hits_are_recorded_where_that_is_asked_for(steps: Steps) -> None:
    await steps.make(asked("a"))
    await steps.ask(asked("waits", "Missing"))
    same_entity = {"entityType": "listing", "entityId": "waits"}

    async with steps.engine.begin() as connection:
        entries = await hits.record(
            connection,
            [
                asked("hit"),
                asked("miss", "Another"),
                asked("follows", upload=same_entity),
                asked("fresh", skipCache=True),
            ],
            topics=TOPICS,
            trial=False,
            hits_only=True,
        )

    assert list(entries) == [asked("hit").id]
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 3


async def test_the_context_hash_goes_before_the_prompt_hash_and_the_newest_first(
    steps: Steps,
) -> None:
    by_context = asked("a", context={"title": "Villa"})
    by_prompt = asked("b", context={"title": "Villa", "slug": "x"})
    await steps.make(by_context)
    await steps.execute("UPDATE media_assets SET prompt_hash = 'another'")
    await steps.make(by_prompt)
    assert await steps.value("SELECT count(*) FROM media_assets") == 2

    await steps.ask(
        asked("c", context={"title": "Villa"}), asked("d", context={"title": "Villa", "z": 1})
    )

    rows = await steps.rows(
        "SELECT r.event_id, a.context_hash FROM imagepipe.requests r"
        " JOIN media_assets a ON a.id = r.asset_id WHERE r.event_id IN ('c', 'd') ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [
        ("c", by_context.context_hash),
        ("d", by_prompt.context_hash),
    ]
