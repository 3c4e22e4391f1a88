"""One connection for one statement that is run again and again, past SQLAlchemy.

Where a statement takes the server half a millisecond, SQLAlchemy takes as long once more to look
it up, check a connection out and bind thirty parameters. Here psycopg gets it as PostgreSQL wants
it, and the server plans it every ten seconds only: planning takes longer than running it.
"""

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import AsyncRawCursor
from sqlalchemy import TextClause
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

PLANS_LAST = 10.0
"""Seconds that a plan is kept. PostgreSQL drops it by itself when a table is analysed, but tables
that have just begun to fill are analysed up to a minute late."""


class DriverConnection:
    """A connection that is opened when it is needed, and again after it broke; every statement
    commits by itself. One task uses it at a time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._held: AsyncConnection | None = None
        self._driver: psycopg.AsyncConnection[tuple[Any, ...]]
        self._plans_end = 0.0

    async def execute(
        self, statement: TextClause, parameters: Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        """The rows of a statement; raises `SQLAlchemyError` as an `AsyncConnection` does."""
        if self._held is None:
            await self._open()
        sql, names = _numbered(statement)
        try:
            cursor = AsyncRawCursor(self._driver)
            if time.monotonic() > self._plans_end:
                await cursor.execute("DISCARD PLANS")
                self._plans_end = time.monotonic() + PLANS_LAST
            await cursor.execute(sql, [parameters[name] for name in names])
            return await cursor.fetchall()
        except psycopg.Error as error:
            broken = self._driver.closed
            if broken:
                await self.close()
            raise DBAPIError.instance(
                sql, None, error, psycopg.Error, connection_invalidated=broken
            ) from error

    async def close(self) -> None:
        """The next statement opens it again."""
        held, self._held = self._held, None
        if held is not None:
            if self._driver.closed:
                await held.invalidate()
            await held.close()

    async def _open(self) -> None:
        self._held = await self._engine.connect()
        driver: Any = (await self._held.get_raw_connection()).driver_connection
        self._driver = driver
        await self._held.exec_driver_sql("SET plan_cache_mode = force_generic_plan")


@lru_cache
def _numbered(statement: TextClause) -> tuple[str, tuple[str, ...]]:
    """The statement with $1, $2 …, and the names of their parameters."""
    dialect = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
    compiled = statement.compile(dialect=dialect)
    return str(compiled), tuple(compiled.positiontup or ())
