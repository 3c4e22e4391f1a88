"""Waiting is cheap: what it takes to let one job go does not depend on how many wait behind it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pipeline import claims, deferral
from tests.integration.builders import TOPICS, Steps, asked, global_limit
from tests.integration.test_deferral import later, look

FEW, MANY = 30, 300  # jobs that wait
ROWS_OF_A_LOOK = 60  # two rounds of eight candidates: found in an index, read, and their requests
AN_HOUR = 20  # jobs that may go in an hour

TOUCHED = text("""
    SELECT relname, seq_tup_read + idx_tup_fetch AS read,
           n_tup_ins + n_tup_upd + n_tup_del AS written
    FROM pg_stat_xact_user_tables WHERE schemaname = 'imagepipe'
""")


@dataclass(frozen=True, slots=True)
class Effort:
    """What one look at the queue took."""

    bought: int
    told: int
    statements: int
    rows_read: Counter[str]  # by table
    rows_written: Counter[str]


async def effort_of_a_look(steps: Steps) -> Effort:
    """Claim, and tell those who have to wait, as a worker does at every look."""
    async with steps.engine.begin() as connection:
        before = await rows_touched(connection)
        with statements_of(steps.engine) as sent:
            claim = await claims.claim(
                connection, slots=8, call_timeout=60, topics=TOPICS, trial=False
            )
            told = await deferral.announce_waiting(connection, claim.heads, topics=TOPICS)
        after = await rows_touched(connection)
    read, written = (now - then for now, then in zip(after, before, strict=True))
    return Effort(len(claim.claimed), told, len(sent), read, written)


async def rows_touched(connection: AsyncConnection) -> tuple[Counter[str], Counter[str]]:
    """Rows read and rows written by this session, by table."""
    rows = (await connection.execute(TOUCHED)).all()
    return (
        Counter({row.relname: row.read for row in rows}),
        Counter({row.relname: row.written for row in rows}),
    )


@contextmanager
def statements_of(engine: AsyncEngine) -> Iterator[list[str]]:
    """The statements that are sent inside the block."""
    sent: list[str] = []

    def note(*arguments: object) -> None:
        sent.append(str(arguments[2]))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


async def settle_down(steps: Steps) -> None:
    """What autovacuum does sooner or later: plans are then made for the tables as they are."""
    async with steps.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql("VACUUM ANALYZE")


async def wait_behind_a_full_window(steps: Steps, first: int, number: int) -> None:
    await steps.ask(*(asked(f"{n}", f"No {n}") for n in range(first, first + number)))
    assert await look(steps) == number
    await settle_down(steps)


@pytest.mark.parametrize("scope", ["global", "source:live", "type:listing"])
async def test_a_freed_slot_costs_the_same_however_many_wait(steps: Steps, scope: str) -> None:
    await steps.limit(global_limit(requests=AN_HOUR, scope=scope))
    for title in ("leaves first", "leaves second"):
        await steps.make(asked(title, title))
        await later(steps, 300)
    await steps.make(*(asked(f"stays {n}", f"Stays {n}") for n in range(8)))
    await steps.make(*(asked(f"stays too {n}", f"Stays too {n}") for n in range(8)))
    await steps.make(*(asked(f"stays as well {n}", f"Stays as well {n}") for n in range(2)))

    await wait_behind_a_full_window(steps, 0, FEW)
    await later(steps, 3000)
    few = await effort_of_a_look(steps)
    await wait_behind_a_full_window(steps, FEW, MANY - FEW)
    await later(steps, 300)
    many = await effort_of_a_look(steps)

    assert few.bought == many.bought == 1
    assert few.told == many.told == 0
    assert many.statements == few.statements
    assert many.rows_written == few.rows_written
    assert many.rows_read["jobs"] + many.rows_read["requests"] < ROWS_OF_A_LOOK
