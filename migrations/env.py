"""Alembic's environment: one connection, one transaction, the version table in our schema."""

import sqlalchemy as sa
from alembic import context

from pipeline.tables import SCHEMA, metadata

MIGRATION_LOCK = 0x696D6770  # "imgp": two `migrate` at once wait for each other

connection: sa.Connection = context.config.attributes["connection"]
connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table="alembic_version",
    version_table_schema=SCHEMA,
    include_schemas=True,
)
context.run_migrations()
