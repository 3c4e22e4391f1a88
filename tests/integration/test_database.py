"""Transactions against a real server: what is tried again until it works, and what is not."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from structlog.testing import capture_logs

from pipeline.database import create_engine, sync_url, transact
from sandbox.database import EmbeddedDatabase


class Counted:
    """Work that knows which of its tries this is."""

    def __init__(self, work: Callable[[AsyncConnection, int], Awaitable[None]]) -> None:
        self._work = work
        self.tries = 0

    async def __call__(self, connection: AsyncConnection) -> None:
        self.tries += 1
        await self._work(connection, self.tries)


@pytest.fixture
async def accounts(engine: AsyncEngine) -> AsyncEngine:
    """A database with two accounts, a and b, that hold nothing."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE accounts (name text PRIMARY KEY, held int)"))
        await connection.execute(text("INSERT INTO accounts VALUES ('a', 0), ('b', 0)"))
    return engine


async def pay_in(connection: AsyncConnection, name: str) -> None:
    pay = text("UPDATE accounts SET held = held + 1 WHERE name = :name")
    await connection.execute(pay, {"name": name})


async def balances(engine: AsyncEngine) -> dict[str, int]:
    async with engine.begin() as connection:
        rows = await connection.execute(text("SELECT name, held FROM accounts ORDER BY name"))
        return {row.name: row.held for row in rows}


async def until_said(logs: Sequence[object]) -> None:
    """Return when a transaction has failed so often that it was logged."""
    async with asyncio.timeout(30):
        while not logs:  # noqa: ASYNC110 a list has no event to wait for
            await asyncio.sleep(0.01)


async def test_the_victim_of_a_deadlock_is_run_again(accounts: AsyncEngine) -> None:
    both_hold_one = asyncio.Barrier(2)

    def transfer(first: str, second: str) -> Counted:
        async def work(connection: AsyncConnection, tries: int) -> None:
            await pay_in(connection, first)
            if tries == 1:
                await both_hold_one.wait()
            await pay_in(connection, second)

        return Counted(work)

    there, back = transfer("a", "b"), transfer("b", "a")
    await asyncio.gather(transact(accounts, there), transact(accounts, back))
    assert there.tries + back.tries == 3
    assert await balances(accounts) == {"a": 2, "b": 2}


async def test_a_serialisation_failure_is_run_again(accounts: AsyncEngine) -> None:
    both_have_read = asyncio.Barrier(2)

    async def raise_to_the_next(connection: AsyncConnection, tries: int) -> None:
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
        held = await connection.scalar(text("SELECT held FROM accounts WHERE name = 'a'"))
        if tries == 1:
            await both_have_read.wait()
        update = text("UPDATE accounts SET held = :held WHERE name = 'a'")
        await connection.execute(update, {"held": (held or 0) + 1})

    one, other = Counted(raise_to_the_next), Counted(raise_to_the_next)
    await asyncio.gather(transact(accounts, one), transact(accounts, other))
    assert one.tries + other.tries == 3
    assert await balances(accounts) == {"a": 2, "b": 0}


async def test_a_terminated_connection_is_replaced(accounts: AsyncEngine) -> None:
    async def lose_the_connection_once(connection: AsyncConnection, tries: int) -> None:
        await pay_in(connection, "a")
        if tries == 1:
            backend = await connection.scalar(text("SELECT pg_backend_pid()"))
            async with accounts.begin() as other:
                terminate = text("SELECT pg_terminate_backend(:backend, 5000)")
                assert await other.scalar(terminate, {"backend": backend})
        await pay_in(connection, "b")

    work = Counted(lose_the_connection_once)
    await transact(accounts, work)
    assert work.tries == 2
    assert await balances(accounts) == {"a": 1, "b": 1}


async def test_a_server_that_became_read_only_is_waited_for(accounts: AsyncEngine) -> None:
    async def read_only_at_first(connection: AsyncConnection, tries: int) -> None:
        if tries == 1:
            await connection.execute(text("SET TRANSACTION READ ONLY"))
        await pay_in(connection, "a")

    work = Counted(read_only_at_first)
    await transact(accounts, work)
    assert (work.tries, await balances(accounts)) == (2, {"a": 1, "b": 0})


async def test_a_lock_that_is_not_given_in_time_is_asked_for_again(accounts: AsyncEngine) -> None:
    async with accounts.connect() as holder:
        await pay_in(holder, "a")

        async def in_a_hurry(connection: AsyncConnection, tries: int) -> None:
            if tries == 2:
                await holder.commit()
            await connection.execute(text("SET LOCAL lock_timeout = '50ms'"))
            await pay_in(connection, "a")

        work = Counted(in_a_hurry)
        await transact(accounts, work)
    assert (work.tries, await balances(accounts)) == (2, {"a": 2, "b": 0})


async def test_work_that_finds_no_free_connection_waits_for_one(
    accounts: AsyncEngine, database_url: str
) -> None:
    narrow = create_async_engine(
        sync_url(database_url), pool_size=1, max_overflow=0, pool_timeout=0.05
    )
    async with narrow.connect():
        waiting = asyncio.create_task(transact(narrow, lambda c: pay_in(c, "a")))
        with capture_logs() as logs:
            await until_said(logs)
        assert not waiting.done()
    await waiting
    await narrow.dispose()
    assert await balances(accounts) == {"a": 1, "b": 0}


async def test_an_outage_is_waited_out_and_said_once(tmp_path: Path) -> None:
    server = EmbeddedDatabase(tmp_path / "data")
    server.start()
    engine = create_engine(server.url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE accounts (name text, held int)"))
        await connection.execute(text("INSERT INTO accounts VALUES ('a', 0)"))
    server.stop()
    with capture_logs() as logs:
        waiting = asyncio.create_task(transact(engine, lambda c: pay_in(c, "a")))
        await until_said(logs)
        await asyncio.to_thread(server.start)
        await waiting
    assert await balances(engine) == {"a": 1}
    await engine.dispose()
    server.stop()
    assert [entry["event"] for entry in logs] == [
        "database is away, trying again",
        "database is back",
    ]


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("INSERT INTO accounts VALUES ('a', 1)", IntegrityError),
        ("SELECT nonsense", ProgrammingError),
        ("SELECT 1 / 0", DBAPIError),
    ],
)
async def test_what_fails_every_time_is_raised_at_once_and_leaves_nothing(
    accounts: AsyncEngine, statement: str, error: type[Exception]
) -> None:
    async def pay_and_fail(connection: AsyncConnection, tries: int) -> None:
        await pay_in(connection, "a")
        await connection.execute(text(statement))

    work = Counted(pay_and_fail)
    with pytest.raises(error):
        await transact(accounts, work)
    assert work.tries == 1
    assert await balances(accounts) == {"a": 0, "b": 0}


async def test_an_error_of_our_own_is_raised_at_once_and_leaves_nothing(
    accounts: AsyncEngine,
) -> None:
    async def change_of_mind(connection: AsyncConnection) -> None:
        await pay_in(connection, "a")
        raise LookupError("on second thoughts")

    with pytest.raises(LookupError, match="second thoughts"):
        await transact(accounts, change_of_mind)
    assert await balances(accounts) == {"a": 0, "b": 0}


async def test_the_servers_own_defaults_change_neither_isolation_nor_time_zone(
    engine: AsyncEngine, database_url: str
) -> None:
    database = make_url(database_url).database
    async with engine.begin() as connection:
        for setting in (
            "default_transaction_isolation = 'serializable'",
            "timezone = 'Europe/Istanbul'",
        ):
            await connection.execute(text(f"ALTER DATABASE {database} SET {setting}"))
    url = make_url(database_url).update_query_dict({"options": "-c statement_timeout=54321"})
    other = create_engine(url.render_as_string(hide_password=False))
    async with other.begin() as connection:
        isolation = await connection.scalar(text("SHOW transaction_isolation"))
        timeout = await connection.scalar(text("SHOW statement_timeout"))
        instant = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
    await other.dispose()
    assert (isolation, timeout) == ("read committed", "54321ms")
    assert instant.utcoffset() == UTC.utcoffset(None)
