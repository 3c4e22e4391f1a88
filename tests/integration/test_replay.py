"""Replays on PostgreSQL: what a batch leaves behind, whatever is repeated, halved or gone."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

import pytest

from pipeline import replays
from pipeline.batches import Intake
from pipeline.dead_letters import DeadLetter
from pipeline.errors import Rejected
from pipeline.events import Record
from pipeline.replay import look, run
from pipeline.replays import Counts, Position, Replay
from pipeline.rules.lifecycle import Source
from pipeline.topic_reader import NotReplayable
from tests.integration.builders import (
    FLARE,
    TOPICS,
    Said,
    Steps,
    asked,
    picture,
    record_of,
    request_data,
)


@pytest.fixture
def backfill(steps: Steps) -> Intake:
    return Intake(
        steps.engine,
        FLARE,
        TOPICS,
        output_format="webp",
        group="imagepipe",
        trial=False,
        source=Source.BACKFILL,
    )


async def begin(steps: Steps, end: int, id_: str = "r") -> Replay:
    async with steps.engine.begin() as connection:
        await replays.begin(connection, id_, "t", "--from-earliest", [Position(0, 0, 0, end)])
    return await saved(steps, id_)


async def saved(steps: Steps, id_: str = "r") -> Replay:
    async with steps.engine.begin() as connection:
        found = await replays.find(connection, id_)
    assert found is not None
    return found


async def take(
    steps: Steps,
    intake: Intake,
    replay: Replay,
    *batches: Sequence[Record],
    reemit: bool = True,
    stop: bool = False,
) -> list[DeadLetter]:
    letters: list[DeadLetter] = []
    await run(
        steps.engine,
        intake,
        batches,
        replay,
        TOPICS,
        reemitting=reemit,
        seen=lambda found, _: letters.extend(found),
        stopped=lambda: stop,
    )
    return letters


def event(offset: int, event_id: str, title: str = "Modern Daire") -> Record:
    """The record of the event that `asked(event_id, title)` prepares."""
    return record_of(offset, request_data(title, event_id), event_id=event_id)


def again(first: Said, replay: str = "r") -> str:
    return str(uuid5(UUID(first.id), replay))


def without_time(said: Said) -> tuple[str, str, dict[str, Any]]:
    return said.topic, said.key, {k: v for k, v in said.data.items() if k != "occurredAt"}


async def test_outcomes_are_told_again_as_they_were(steps: Steps, backfill: Intake) -> None:
    await steps.ask(asked("paid"), asked("joined"), asked("refused", "Refused"))
    await steps.ask(asked("waits", "Waits"))
    claim = await steps.claim(slots=2)
    for claimed in claim.claimed:
        if claimed.call.prompt.find("Refused") >= 0:
            await steps.fail(claimed, Rejected("moderation_blocked", "No.", error_class="policy"))
        else:
            await steps.keep(claimed, picture(usage=None))  # priced by its bound: estimated
            await steps.complete(claimed.job_id)
    await steps.ask(asked("hit"))
    first = {one.data["causation"]["id"]: one for one in await steps.said()}
    assert first.keys() == {"paid", "joined", "refused", "hit"}

    names = ("paid", "joined", "refused", "waits", "hit")
    replay = await begin(steps, 5)
    await take(steps, backfill, replay, [event(n, name) for n, name in enumerate(names)])

    told = (await steps.said())[4:]
    assert {one.id for one in told} == {again(one) for one in first.values()}
    for one in told:
        assert without_time(one) == without_time(first[one.data["causation"]["id"]])
    done = await saved(steps)
    assert done.counts == Counts(records=5, known=5, reemitted=4)
    assert done.finished_at is not None
    assert done.positions == (Position(0, 0, 5, 5),)


async def test_pictures_that_are_gone_are_counted(steps: Steps, backfill: Intake) -> None:
    await steps.make(asked("1"), asked("2", "Hill"))
    await steps.execute("DELETE FROM media_assets WHERE title = 'Hill'")
    before = len(await steps.said())

    replay = await begin(steps, 2)
    await take(steps, backfill, replay, [event(0, "1"), event(1, "2", "Hill")])

    assert (await saved(steps)).counts == Counts(records=2, known=2, reemitted=1, gone=1)
    assert len(await steps.said()) == before + 1


async def test_an_asset_that_no_longer_says_enough_counts_as_gone(
    steps: Steps, backfill: Intake
) -> None:
    await steps.make(asked("1"))
    await steps.execute("UPDATE media_assets SET width = NULL")

    await take(steps, backfill, await begin(steps, 1), [event(0, "1")])

    assert (await saved(steps)).counts == Counts(records=1, known=1, gone=1)
    assert await steps.value("SELECT count(*) FROM imagepipe.dead_letters") == 0


async def test_nothing_is_told_twice_whatever_is_repeated(steps: Steps, backfill: Intake) -> None:
    await steps.make(asked("1"))
    replay = await begin(steps, 9)
    twice = [event(0, "1"), event(1, "1"), event(2, "new"), record_of(3, b"broken")]

    await take(steps, backfill, replay, twice, stop=True)
    await take(steps, backfill, replay, twice, stop=True)  # as after a commit nobody heard of
    await asyncio.gather(*(take(steps, backfill, replay, twice, stop=True) for _ in range(2)))
    assert (await saved(steps)).finished_at is None
    await take(steps, backfill, replay, [event(5, "1"), event(8, "new")])

    told = await steps.said(TOPICS.ready)
    assert [one.data["causation"]["id"] for one in told] == ["1", "new", "1"]
    assert (told[2].id, told[1].data["cached"]) == (again(told[0]), True)
    done = await saved(steps)
    assert done.counts == Counts(records=6, new=1, known=4, undecodable=1, reemitted=1)
    assert done.finished_at is not None


async def test_new_events_are_backfill_and_replace_nothing_that_came_by_itself(
    steps: Steps, backfill: Intake
) -> None:
    await steps.ask(asked("1", "Newest"))
    old = [
        record_of(n, request_data(title, "1"), event_id=f"old-{n}")
        for n, title in enumerate(["Oldest", "Older"])
    ]

    await take(steps, backfill, await begin(steps, 2), old)

    rows = await steps.rows(
        "SELECT event_id, source, state, error_code FROM imagepipe.requests ORDER BY sequence"
    )
    assert [tuple(row) for row in rows] == [
        ("1", "live", "waiting", None),
        ("old-0", "backfill", "failed", "superseded"),
        ("old-1", "backfill", "waiting", None),
    ]
    assert (await saved(steps)).counts == Counts(records=2, new=2)


async def test_what_postgresql_refuses_is_a_dead_letter_and_the_rest_goes_on(
    steps: Steps, backfill: Intake
) -> None:
    await steps.execute("ALTER TABLE imagepipe.requests ADD CHECK (alt <> 'Cursed')")
    titles = ["A", "B", "Cursed", "C", "D"]
    batch = [event(n, str(n), title) for n, title in enumerate(titles)]

    letters = await take(steps, backfill, await begin(steps, 5), batch)

    assert [(one.code, one.record.offset) for one in letters] == [("database_refused", 2)]
    assert (await saved(steps)).counts == Counts(records=5, new=4, undecodable=1)


async def test_a_dead_letter_is_not_made_twice(steps: Steps, backfill: Intake) -> None:
    live = Intake(steps.engine, FLARE, TOPICS, output_format="webp", group="g", trial=False)
    await live.accept([record_of(0, b"broken")])

    letters = await take(steps, backfill, await begin(steps, 1), [record_of(0, b"broken")])

    assert [one.code for one in letters] == ["not_json"]
    assert (await saved(steps)).counts == Counts(records=1, undecodable=1)
    assert await steps.value("SELECT count(*) FROM imagepipe.dead_letters") == 1
    assert len(await steps.rows("SELECT FROM imagepipe.outbox")) == 1


async def test_trouble_beside_the_records_is_not_blamed_on_them(
    steps: Steps, backfill: Intake
) -> None:
    async def along(*_: object) -> None:
        raise ValueError("not the records' fault")

    with pytest.raises(ValueError, match="not the records' fault"):
        await backfill.keep([backfill.read(event(0, "1"))], along)
    replay = await begin(steps, 1)
    await steps.execute("DELETE FROM imagepipe.replays")
    with pytest.raises(NotReplayable, match="begun anew"):
        await take(steps, backfill, replay, [event(0, "1")])

    for table in ("requests", "dead_letters", "outbox"):
        assert await steps.value(f"SELECT count(*) FROM imagepipe.{table}") == 0


async def test_a_look_writes_nothing(steps: Steps, backfill: Intake) -> None:
    await steps.make(asked("1"))
    await steps.ask(asked("2", "Waits"))
    batch = [event(0, "1"), event(1, "2", "Waits"), event(2, "3"), record_of(3, b"broken")]
    before = await steps.rows("SELECT * FROM imagepipe.requests ORDER BY id")
    moved: list[int] = []

    found = await look(
        steps.engine, backfill, [batch[:2], [], batch[2:]], lambda _, n: moved.append(n)
    )

    assert (found.records, found.known, found.finished) == (4, 2, 1)
    assert (found.new, found.undecodable, sum(moved)) == (1, 1, 4)
    assert await steps.rows("SELECT * FROM imagepipe.requests ORDER BY id") == before
    assert await steps.value("SELECT count(*) FROM imagepipe.dead_letters") == 0
