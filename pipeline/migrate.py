"""Brings a database to the newest schema, or back; a failure leaves it as it was."""

import asyncio
from pathlib import Path

import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

from pipeline.database import sync_url
from pipeline.tables import SCHEMA

log = structlog.get_logger()

SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    return config


def _engine(url: str) -> sa.Engine:
    return sa.create_engine(
        sync_url(url),
        isolation_level="READ COMMITTED",  # who waited for another upgrade sees what it did
        poolclass=sa.NullPool,
        connect_args={"connect_timeout": 5},
    )


def upgrade(url: str, revision: str = "head") -> None:
    """Migrate `postgresql://…` up, in one transaction; concurrent calls wait for each other."""
    with _engine(url).begin() as connection:
        command.upgrade(_config(connection), revision)


def downgrade(url: str, revision: str = "base") -> None:
    """Migrate down, in one transaction. Tables that were there before us stay."""
    with _engine(url).begin() as connection:
        command.downgrade(_config(connection), revision)


def current(url: str) -> str | None:
    """The revision a database is at; None before the first migration."""
    with _engine(url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
        return context.get_current_revision()


def newest() -> str:
    """The revision this code was written for."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


async def wait_until_current(url: str) -> None:
    """Wait, however long, for a database that answers and is at the newest revision; said once."""
    told = False
    while True:
        try:
            revision = await asyncio.to_thread(current, url)
            reason = f"it is at revision {revision}, run imagepipe migrate"
        except OperationalError as error:
            revision, reason = None, " ".join(str(error.orig).split())
        if revision == newest():
            return
        if not told:
            log.warning("waiting for PostgreSQL", reason=reason)
            told = True
        await asyncio.sleep(1)
