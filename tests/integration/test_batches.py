"""A batch of Kafka records made durable: broken ones become dead letters, the rest is unharmed."""

import asyncio
import json

import pytest
import structlog
from sqlalchemy import Row

from pipeline.batches import Intake
from pipeline.dead_letters import LARGEST_WHOLE
from pipeline.events import Record
from pipeline.messages import Headers, unpack_headers
from tests.integration.builders import (
    DALL_E,
    FLARE,
    TOPICS,
    Steps,
    eventually,
    record_of,
    request_data,
)

GOOD = request_data("Good")


@pytest.fixture
def accepts(steps: Steps) -> Intake:
    return Intake(steps.engine, FLARE, TOPICS, output_format="webp", group="imagepipe", trial=False)


async def published(steps: Steps) -> list[tuple[Row[object], Headers]]:
    """The dead letters in the outbox, as they will be published."""
    rows = await steps.rows(
        "SELECT * FROM imagepipe.outbox WHERE topic = :topic ORDER BY id",
        topic=TOPICS.dead_letters,
    )
    return [(row, unpack_headers(row.headers)) for row in rows]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"\xff\xfe not JSON", "not_json"),
        (b"[]", "not_an_object"),
        (b'{"type": "listing", "context": {"title": "a\\u0000b"}}', "unsafe_json"),
        (b'{"type": "listing", "context": {"n": 9007199254740993}}', "unsafe_json"),
        (json.dumps(request_data("x" * 501)).encode(), "bad_request"),
        (json.dumps(GOOD | {"type": "nonsense"}).encode(), "bad_request"),
    ],
)
async def test_a_broken_record_is_a_dead_letter_and_harms_nobody(
    steps: Steps, accepts: Intake, value: bytes, code: str
) -> None:
    broken = record_of(1, value)

    recorded = await accepts.accept([record_of(0, GOOD), broken, record_of(2, GOOD)])

    assert (recorded.new, recorded.waiting) == (2, 2)
    kept = await steps.row("SELECT * FROM imagepipe.dead_letters")
    assert (kept.code, kept.partition, kept.offset, kept.whole) == (code, 0, 1, True)
    [(letter, headers)] = await published(steps)
    assert (bytes(letter.key), bytes(letter.value)) == (broken.key, value)
    assert headers[: len(broken.headers)] == broken.headers
    assert dict(headers)["kafka_dlt-exception-fqcn"] == f"imagepipe.{code}".encode()
    assert dict(headers)["kafka_dlt-original-consumer-group"] == b"imagepipe"


async def test_a_batch_that_comes_again_changes_nothing(steps: Steps, accepts: Intake) -> None:
    batch = [record_of(0, GOOD), record_of(1, b"broken")]
    await accepts.accept(batch)

    again = await accepts.accept(batch)

    assert (again.new, again.hits, again.waiting) == (0, 0, 0)
    assert await steps.value("SELECT count(*) FROM imagepipe.dead_letters") == 1
    assert len(await published(steps)) == 1


async def test_a_custom_prompt_that_the_model_cannot_take_is_a_dead_letter(steps: Steps) -> None:
    accepts = Intake(
        steps.engine, DALL_E, TOPICS, output_format="webp", group="imagepipe", trial=False
    )
    prompt = {"type": "custom", "prompt": "deniz " * 1_000, "upload": GOOD["upload"]}

    await accepts.accept([record_of(0, prompt), record_of(1, GOOD)])

    assert await steps.value("SELECT code FROM imagepipe.dead_letters") == "prompt_too_long"
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 1


async def test_what_postgresql_refuses_is_found_and_the_rest_is_recorded(
    steps: Steps, accepts: Intake
) -> None:
    await steps.execute("ALTER TABLE imagepipe.requests ADD CHECK (alt <> 'Cursed')")
    titles = ["A", "B", "C", "Cursed", "D", "E", "F"]
    batch = [record_of(n, request_data(title)) for n, title in enumerate(titles)]

    recorded = await accepts.accept([*batch, record_of(99, b"broken")])

    assert (recorded.new, recorded.waiting) == (6, 6)
    dead = await steps.rows('SELECT code, "offset" FROM imagepipe.dead_letters ORDER BY 2')
    assert [tuple(row) for row in dead] == [("database_refused", 3), ("not_json", 99)]
    values = {bytes(letter.value) for letter, _ in await published(steps)}
    assert values == {batch[3].value, b"broken"}


async def test_of_a_record_too_large_for_one_message_only_the_place_is_kept(
    steps: Steps, accepts: Intake
) -> None:
    huge = record_of(7, b"x" * (LARGEST_WHOLE + 1))

    await accepts.accept([huge, record_of(8, GOOD)])

    kept = await steps.row("SELECT * FROM imagepipe.dead_letters")
    assert (kept.topic, kept.partition, kept.offset) == ("entity-created", 0, 7)
    assert (kept.whole, kept.size > LARGEST_WHOLE, len(kept.sha256)) == (False, True, 64)
    assert await published(steps) == []
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 1


async def test_no_record_is_lost_or_blamed_while_the_schema_is_another_releases(
    steps: Steps, accepts: Intake
) -> None:
    await steps.execute("ALTER TABLE imagepipe.jobs RENAME TO jobs_of_another_release")

    with structlog.testing.capture_logs() as logs:
        accepting = asyncio.create_task(accepts.accept([record_of(0, GOOD)]))
        await eventually(lambda: any("trying again" in entry["event"] for entry in logs))
        await steps.execute("ALTER TABLE imagepipe.jobs_of_another_release RENAME TO jobs")
        recorded = await accepting

    assert recorded.waiting == 1
    assert await steps.value("SELECT count(*) FROM imagepipe.dead_letters") == 0


async def test_a_large_batch_is_one_transaction(steps: Steps, accepts: Intake) -> None:
    batch: list[Record] = [record_of(n, request_data(f"No {n % 100}", str(n))) for n in range(500)]

    recorded = await accepts.accept(batch)

    assert (recorded.new, recorded.waiting) == (500, 500)
    counts = await steps.row("""
        SELECT (SELECT count(*) FROM imagepipe.jobs) AS jobs,
               (SELECT count(DISTINCT CAST(xmin AS text)) FROM imagepipe.jobs),
               (SELECT count(DISTINCT CAST(xmin AS text)) FROM imagepipe.requests)
    """)
    assert tuple(counts) == (100, 1, 1)


async def test_batches_at_once_in_opposite_orders_open_each_job_once(
    steps: Steps, accepts: Intake
) -> None:
    titles = [f"No {n}" for n in range(40)]
    batches = [
        [
            record_of(100 * batch + n, request_data(title, f"{batch}-{n}"))
            for n, title in enumerate(order)
        ]
        for batch, order in enumerate([titles, titles[::-1]] * 3)
    ]

    recorded = await asyncio.gather(*map(accepts.accept, batches))

    assert sum(one.waiting for one in recorded) == 240
    assert await steps.value("SELECT count(*) FROM imagepipe.jobs") == 40
    assert await steps.value("SELECT count(job_id) FROM imagepipe.requests") == 240
    assert await steps.value("SELECT count(*) FROM imagepipe.dead_letters") == 0
