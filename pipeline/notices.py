"""Nudges between processes by LISTEN and NOTIFY: a hint that the tables are worth a look.

A notice carries nothing and may get lost (a proxy that pools transactions drops all of them):
whoever listens also looks by himself every so often. PostgreSQL takes one lock for the whole
instance when a NOTIFY commits, so only what somebody waits for over HTTP is told.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Literal

import psycopg
import structlog
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pipeline.database import create_engine
from pipeline.requests import API, Asker

log = structlog.get_logger()

Channel = Literal["imagepipe_queued", "imagepipe_finished"]

AGAIN_AFTER = 2.0  # seconds before another try to listen


async def tell_queued(connection: AsyncConnection) -> None:
    """A job is worth a worker's look as soon as this commits."""
    await _tell(connection, "imagepipe_queued")


async def tell_finished(connection: AsyncConnection, askers: Iterable[Asker]) -> None:
    """Requests are answered as soon as this commits; told if any of them came over HTTP."""
    if any(asker.event_source == API for asker in askers):
        await _tell(connection, "imagepipe_finished")


async def _tell(connection: AsyncConnection, channel: Channel) -> None:
    await connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel})


async def listen(database_url: str, channel: Channel, nudge: Callable[[], None]) -> None:
    """Call `nudge` at every notice, and whenever some may have been missed; ends by
    cancellation. A database that is away is waited for."""
    engine = create_engine(database_url, pool_size=1)
    told = False
    try:
        while True:
            try:
                await _listen_once(engine, channel, nudge)
            except Exception as error:  # whoever is nudged looks by himself, too
                if not told:
                    log.warning("not listening, trying again", channel=channel, error=str(error))
                    told = True
            await asyncio.sleep(AGAIN_AFTER)
    finally:
        await engine.dispose()


async def _listen_once(engine: AsyncEngine, channel: Channel, nudge: Callable[[], None]) -> None:
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with alone.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, psycopg.AsyncConnection)
        try:
            await driver.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            nudge()
            async with aclosing(driver.notifies()) as notices:
                async for _ in notices:
                    nudge()
        except psycopg.Error:
            await connection.invalidate()  # it is broken: there is nothing to give back
            raise
