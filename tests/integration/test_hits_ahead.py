"""A worker's intake records hits ahead of the rest: nothing but its speed may tell."""

from collections.abc import AsyncIterator

import pytest

from pipeline.batches import Intake
from pipeline.database import create_engine
from tests.integration.builders import FLARE, TOPICS, Steps, asked, record_of, request_data

EVENTS = """
    SELECT event_id, state, cached FROM imagepipe.requests
    WHERE event_source = 'urn:cms' AND event_id LIKE 'event-%' ORDER BY sequence
"""

USES = "SELECT sum(usage_count) FROM media_assets"  # the one who paid is the first


@pytest.fixture
async def accepts(steps: Steps, database_url: str) -> AsyncIterator[Intake]:
    engine = create_engine(database_url, pool_size=1)
    intake = Intake(
        steps.engine,
        FLARE,
        TOPICS,
        output_format="webp",
        group="imagepipe",
        trial=False,
        engine_of_hits=engine,
    )
    await steps.make(asked("bought", "Known"))
    yield intake
    await intake.close()
    await engine.dispose()


async def test_a_mixed_batch_is_recorded_whole_and_once(steps: Steps, accepts: Intake) -> None:
    batch = [
        record_of(0, request_data("New", "1")),
        record_of(1, request_data("Known", "2")),
        record_of(2, b"broken"),
        record_of(3, request_data("Known", "3")),
    ]

    recorded = await accepts.accept(batch)
    again = await accepts.accept(batch)

    assert (recorded.new, recorded.hits, recorded.waiting) == (3, 2, 1)
    assert (again.new, again.hits, again.waiting) == (0, 0, 0)
    assert await steps.value("SELECT count(*) FROM imagepipe.dead_letters") == 1
    assert await steps.value(USES) == 1 + 2
    assert {row.event_id: row.state for row in await steps.rows(EVENTS)} == {
        "event-0": "waiting",
        "event-1": "ready",
        "event-3": "ready",
    }


async def test_an_entity_twice_in_a_batch_keeps_its_order(steps: Steps, accepts: Intake) -> None:
    await accepts.accept(
        [
            record_of(0, request_data("New", "1")),
            record_of(1, request_data("Known", "1")),
            record_of(2, request_data("Known", "2")),
        ]
    )

    events = [row.event_id for row in await steps.rows(EVENTS)]
    assert events.index("event-0") < events.index("event-1")


async def test_a_hit_behind_a_waiting_event_of_its_entity_replaces_it(
    steps: Steps, accepts: Intake
) -> None:
    await accepts.accept([record_of(0, request_data("New", "1"))])

    await accepts.accept([record_of(1, request_data("Known", "1"))])

    states = [(row.event_id, row.state) for row in await steps.rows(EVENTS)]
    assert states == [("event-0", "failed"), ("event-1", "ready")]


async def test_hits_are_recorded_with_the_rest_where_their_connection_is_gone(
    steps: Steps, accepts: Intake
) -> None:
    await accepts.accept([record_of(0, request_data("Known", "1"))])
    await steps.execute("""
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE query LIKE '%asked AS MATERIALIZED%' AND pid <> pg_backend_pid()
          AND datname = current_database() AND state = 'idle'
    """)

    for number in (1, 2):
        recorded = await accepts.accept([record_of(number, request_data("Known", str(number)))])
        assert (recorded.new, recorded.hits) == (1, 1)

    assert await steps.value(USES) == 1 + 3
