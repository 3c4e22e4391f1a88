"""Past SQLAlchemy: the same rows and errors as through it, and plans that do not grow old."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline import driver
from pipeline.database import is_transient
from pipeline.driver import DriverConnection


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[DriverConnection]:
    made = DriverConnection(engine)
    yield made
    await made.close()


async def test_parameters_have_names_and_may_come_twice(connection: DriverConnection) -> None:
    statement = text("SELECT CAST(:b AS text), CAST(:a AS integer), CAST(:b AS text), '10%'")
    assert await connection.execute(statement, {"a": 1, "b": "ş"}) == [("ş", 1, "ş", "10%")]


async def test_a_statement_commits_by_itself(
    connection: DriverConnection, engine: AsyncEngine
) -> None:
    async with engine.begin() as other:
        await other.execute(text("CREATE TABLE kept (one integer)"))
    rows = await connection.execute(text("INSERT INTO kept VALUES (1) RETURNING one"), {})
    async with engine.begin() as other:
        assert await other.scalar(text("SELECT one FROM kept")) == 1
    assert rows == [(1,)]


async def test_an_error_is_sqlalchemys_and_the_connection_goes_on(
    connection: DriverConnection,
) -> None:
    with pytest.raises(DataError) as caught:
        await connection.execute(text("SELECT 1 / CAST(:zero AS integer)"), {"zero": 0})
    assert not is_transient(caught.value)
    assert await connection.execute(text("SELECT 1"), {}) == [(1,)]


async def test_a_connection_that_broke_is_transient_and_opened_again(
    connection: DriverConnection, engine: AsyncEngine
) -> None:
    [(pid,)] = await connection.execute(text("SELECT pg_backend_pid()"), {})
    async with engine.begin() as other:
        await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    with pytest.raises(OperationalError) as caught:
        await connection.execute(text("SELECT 1"), {})
    assert is_transient(caught.value)
    assert await connection.execute(text("SELECT 1"), {}) == [(1,)]


@pytest.mark.parametrize(("seconds", "is_kept"), [(60.0, True), (0.0, False)])
async def test_a_plan_is_kept_for_some_seconds(
    connection: DriverConnection, monkeypatch: pytest.MonkeyPatch, seconds: float, is_kept: bool
) -> None:
    monkeypatch.setattr(driver, "PLANS_LAST", seconds)
    statement = text("SELECT 1 FROM pg_class WHERE oid = CAST(:oid AS oid)")
    for number in range(10):
        await connection.execute(statement, {"oid": number})
    prepared = text("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%pg_class%'")
    [(name,)] = await connection.execute(prepared, {})
    explain = text(f'EXPLAIN EXECUTE "{name}"(1)')

    before = await connection.execute(explain, {})
    for setting in ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"):
        await connection.execute(text(f"SELECT set_config('{setting}', 'off', false)"), {})

    assert "Index" in before[0][0]
    assert (await connection.execute(explain, {}) == before) is is_kept
