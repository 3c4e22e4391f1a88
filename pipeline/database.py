"""Connections to PostgreSQL, and the one place where a transaction is tried again."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
import structlog
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from pipeline.rules.retries import doubled

log = structlog.get_logger()
T = TypeVar("T")

TRANSIENT_CLASSES = ("08", "40", "53", "57")
"""SQLSTATE classes that pass by themselves: connection, rollback (serialisation, deadlock),
resources, operator intervention (shutdown, restart)."""

TRANSIENT_STATES = ("25006", "25P03", "55P03")
"""Read-only transaction (a primary just demoted), idle in a transaction for too long (a frozen
worker), lock not available (a lock timeout)."""

FIRST_PAUSE = 0.1  # seconds before a transaction's second try, doubling
LONGEST_PAUSE = 5.0  # seconds
INSIST_PAUSE = 2.0  # seconds


def sync_url(url: str) -> str:
    """The same database for SQLAlchemy with psycopg 3, whatever scheme the URL came with."""
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def create_engine(
    url: str, *, pool_size: int = 10, lock_timeout: float | None = None
) -> AsyncEngine:
    """An async engine for `postgresql://…`; connects lazily. `lock_timeout`: seconds after which
    a statement that waits for somebody's lock fails (transient).

    Whatever the server's defaults are, transactions are READ COMMITTED (what is read after a lock
    is what its last holder left) and instants come in UTC (Python's arithmetic on any other zone
    is wrong by an hour across a clock change). A transaction in which nothing happens for a minute
    is ended by the server: a frozen worker would hold the ledger's lock for everybody.
    """
    options = make_url(url).query.get("options", "")
    if lock_timeout is not None:
        options = f"{options} -c lock_timeout={round(lock_timeout * 1000)}ms"
    return create_async_engine(
        sync_url(url),
        isolation_level="READ COMMITTED",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=60,
        connect_args={
            "connect_timeout": 5,
            "application_name": "imagepipe",
            "options": f"{options} -c timezone=UTC -c idle_in_transaction_session_timeout=60s",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        },
    )


def is_transient(error: SQLAlchemyError) -> bool:
    """Whether the same transaction may succeed later without anybody changing anything."""
    if isinstance(error, NoFreeConnection):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    cause = error.orig
    state = cause.sqlstate if isinstance(cause, psycopg.Error) else None
    if state is None:
        return isinstance(cause, psycopg.OperationalError)
    return state.startswith(TRANSIENT_CLASSES) or state in TRANSIENT_STATES


def was_rolled_back(error: SQLAlchemyError) -> bool:
    """Whether PostgreSQL gave a transaction up for another one's sake: a deadlock, mostly."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return isinstance(cause, psycopg.Error) and (cause.sqlstate or "").startswith("40")


async def transact(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run `work` in a transaction until it commits; the one retry loop around PostgreSQL.

    Transient failures are retried for ever, with back-off and jitter, and said once. So `work`
    must be idempotent: a commit whose answer got lost is run again. Other errors are raised.
    """
    failures = 0
    while True:
        try:
            async with engine.begin() as connection:
                result = await work(connection)
        except SQLAlchemyError as error:
            if not is_transient(error):
                raise
            pause = doubled(FIRST_PAUSE, failures, longest=LONGEST_PAUSE)
            failures += 1
            if failures == 3:  # a deadlock or two is no news
                reason = error.orig if isinstance(error, DBAPIError) else error
                log.warning("database is away, trying again", error=str(reason).strip())
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
        else:
            if failures >= 3:
                log.info("database is back", failures=failures)
            return result


async def insist(attempt: Callable[[], Awaitable[T]], what: str) -> T:
    """Repeat what must not be dropped until it succeeds, whatever goes wrong; said once.

    For work whose loss would lose an event or a paid picture: better a worker that is stuck, and
    says so, than one that goes on without.
    """
    told = False
    while True:
        try:
            return await attempt()
        except Exception:
            if not told:
                log.exception(f"{what} cannot be recorded, trying again")
                told = True
            await asyncio.sleep(INSIST_PAUSE)
