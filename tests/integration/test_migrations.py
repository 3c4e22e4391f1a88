"""Migrations on the three databases they meet: an empty one, and the CMS's, old and extended."""

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import sql

from pipeline import migrate
from pipeline.database import sync_url
from pipeline.tables import SCHEMA, metadata

CMS_TABLES = ["media_assets", "ai_image_generation_logs"]

CMS = """
    CREATE TABLE media_assets (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        cloudinary_public_id text NOT NULL UNIQUE,
        cloudinary_url text NOT NULL,
        cloudinary_secure_url text NOT NULL,
        asset_type text NOT NULL CHECK (asset_type IN
            ('listing_image', 'blog_image', 'og_image', 'neighborhood_image', 'other')),
        entity_type text, entity_id text, width integer, height integer, format text,
        bytes bigint, alt_text text, alt_text_generated boolean DEFAULT false, title text,
        caption text, transformations jsonb DEFAULT '{}', usage_count integer DEFAULT 0,
        last_used_at timestamptz, created_at timestamptz DEFAULT now(),
        updated_at timestamptz DEFAULT now()
    );
    CREATE TABLE ai_image_generation_logs (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        generation_type text NOT NULL, image_size text NOT NULL, image_quality text NOT NULL,
        cost numeric(10,4) NOT NULL DEFAULT 0, success boolean NOT NULL DEFAULT true,
        error_message text, media_asset_id uuid REFERENCES media_assets(id) ON DELETE SET NULL,
        prompt_hash text, context_hash text, created_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX assets_of_entities ON media_assets (entity_type, entity_id);
    COMMENT ON TABLE media_assets IS 'every picture of the site';
    INSERT INTO media_assets
        (cloudinary_public_id, cloudinary_url, cloudinary_secure_url, asset_type, title)
    SELECT 'photo-' || n, 'http://m/' || n, 'https://m/' || n, 'listing_image', 'Şehir ' || n
    FROM generate_series(1, 3) n;
    INSERT INTO ai_image_generation_logs
        (generation_type, image_size, image_quality, cost, media_asset_id)
    SELECT 'listing', '1024x1024', 'standard', 0.04, id FROM media_assets;
"""

EXTENSION = """
    ALTER TABLE media_assets
        ADD COLUMN prompt_hash text, ADD COLUMN context_hash text,
        ADD COLUMN generation_cost numeric(10,4),
        ADD COLUMN generation_metadata jsonb DEFAULT '{}',
        ADD COLUMN ai_generated boolean DEFAULT false;
    UPDATE media_assets SET prompt_hash = md5(title), generation_cost = 0.0812,
        generation_metadata = '{"model": "an older one"}', ai_generated = true
    WHERE title = 'Şehir 1';
"""

EXTENSION_COLUMNS = {
    "prompt_hash": "text",
    "context_hash": "text",
    "generation_cost": "numeric(10,4)",
    "generation_metadata": "jsonb",
    "ai_generated": "boolean",
}

IN_PUBLIC = " relnamespace = 'public'::regnamespace"

Dump = dict[str, Any]


@pytest.fixture
def connection(empty_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(params=[CMS + EXTENSION, CMS], ids=["extended", "without the five columns"])
def cms(request: pytest.FixtureRequest, connection: psycopg.Connection[Any]) -> None:
    """The CMS was there first, with three photos."""
    connection.execute(request.param)


def dump(connection: psycopg.Connection[Any]) -> Dump:
    """Everything in `public`: rows as JSON, columns, constraints, indexes and comments."""
    tables = column(connection, "SELECT relname FROM pg_class WHERE relkind = 'r' AND" + IN_PUBLIC)
    return {
        "rows": {table: rows(connection, table) for table in tables},
        "columns": {
            (row[0], row[1]): row[2:]
            for row in connection.execute(
                "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod),"
                " attnotnull, pg_get_expr(adbin, adrelid) FROM pg_attribute"
                " JOIN pg_class c ON c.oid = attrelid"
                " LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
                " WHERE attnum > 0 AND relkind = 'r' AND" + IN_PUBLIC
            )
        },
        "constraints": column(
            connection,
            "SELECT conrelid::regclass || ': ' || pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace",
        ),
        "indexes": column(
            connection, "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"
        ),
        "comments": column(
            connection,
            "SELECT relname || ': ' || obj_description(oid, 'pg_class') FROM pg_class"
            " WHERE obj_description(oid, 'pg_class') IS NOT NULL AND" + IN_PUBLIC,
        ),
    }


def column(connection: psycopg.Connection[Any], query: str) -> list[str]:
    return sorted(str(row[0]) for row in connection.execute(query))


def rows(connection: psycopg.Connection[Any], table: str) -> list[dict[str, Any]]:
    query = sql.SQL("SELECT to_jsonb(t) FROM {} t ORDER BY id").format(sql.Identifier(table))
    return [row[0] for row in connection.execute(query)]


def old_part(now: Dump, before: Dump) -> Dump:
    """Of `now`, what has a counterpart in `before`."""
    return {
        "rows": {
            table: [
                {name: value for name, value in row.items() if (table, name) in before["columns"]}
                for row in now["rows"][table]
            ]
            for table in before["rows"]
        },
        "columns": {key: now["columns"][key] for key in before["columns"]},
        **{
            kind: [entry for entry in now[kind] if entry in before[kind]]
            for kind in ("constraints", "indexes", "comments")
        },
    }


def our_tables(connection: psycopg.Connection[Any]) -> list[str]:
    return column(connection, "SELECT tablename FROM pg_tables WHERE schemaname = 'imagepipe'")


def extension(connection: psycopg.Connection[Any]) -> dict[str, str]:
    found = dump(connection)["columns"]
    return {name: found["media_assets", name][0] for name in EXTENSION_COLUMNS}


def test_an_empty_database_gets_everything_and_gives_it_back(
    empty_database_url: str, connection: psycopg.Connection[Any]
) -> None:
    empty = dump(connection)
    assert migrate.current(empty_database_url) is None
    migrate.upgrade(empty_database_url)
    first = dump(connection)
    assert migrate.current(empty_database_url) == migrate.newest()
    assert set(first["rows"]) == set(CMS_TABLES)
    assert extension(connection) == EXTENSION_COLUMNS

    migrate.downgrade(empty_database_url)
    assert migrate.current(empty_database_url) is None
    assert dump(connection) == empty
    assert our_tables(connection) == ["alembic_version"]

    migrate.upgrade(empty_database_url)
    assert dump(connection) == first


@pytest.mark.usefixtures("cms")
def test_the_cms_keeps_every_row_column_and_constraint(
    empty_database_url: str, connection: psycopg.Connection[Any]
) -> None:
    before = dump(connection)
    was_extended = ("media_assets", "ai_generated") in before["columns"]
    for _ in range(2):
        migrate.upgrade(empty_database_url)
        upgraded = dump(connection)
        assert old_part(upgraded, before) == before
        assert extension(connection) == EXTENSION_COLUMNS
        assert len(upgraded["constraints"]) == len(before["constraints"])
        generated = {r["title"] for r in upgraded["rows"]["media_assets"] if r["ai_generated"]}
        assert generated == ({"Şehir 1"} if was_extended else set())

        migrate.downgrade(empty_database_url)
        downgraded = dump(connection)
        assert old_part(downgraded, before) == before
        assert downgraded["rows"] == upgraded["rows"]
        assert downgraded["indexes"] == before["indexes"]
        assert our_tables(connection) == ["alembic_version"]


def test_an_upgrade_of_the_newest_schema_changes_nothing(
    database_url: str,
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE imagepipe.limits SET max_requests = 7 WHERE name = 'hour'")
        before = dump(connection)
        migrate.upgrade(database_url)
        assert dump(connection) == before
        hour = connection.execute("SELECT max_requests FROM imagepipe.limits WHERE name = 'hour'")
        assert hour.fetchone() == (7,)


@pytest.mark.parametrize(
    ("in_use", "kept"),
    [
        ("", set()),
        ("INSERT INTO media_assets VALUES (DEFAULT, 'p', 'u', 's', 'other')", {CMS_TABLES[0]}),
        (
            "INSERT INTO ai_image_generation_logs VALUES (DEFAULT, 'hero', 'x', 'hd')",
            set(CMS_TABLES),  # the log refers to the assets
        ),
        (
            "CREATE TABLE covers (id int, asset uuid REFERENCES media_assets)",
            {CMS_TABLES[0], "covers"},
        ),
    ],
    ids=["nothing", "an asset", "a failure's log", "another table"],
)
def test_a_downgrade_drops_of_the_cms_tables_only_what_nobody_uses(
    empty_database_url: str, connection: psycopg.Connection[Any], in_use: str, kept: set[str]
) -> None:
    migrate.upgrade(empty_database_url)
    connection.execute(in_use)
    before = dump(connection)
    migrate.downgrade(empty_database_url)
    after = dump(connection)
    assert after["rows"] == {table: before["rows"][table] for table in kept}
    migrate.upgrade(empty_database_url)
    assert dump(connection) == before


@pytest.mark.usefixtures("cms")
@pytest.mark.parametrize(
    "obstacle",
    [
        # In the way of one of the last tables, when nearly everything has been made:
        "CREATE SCHEMA imagepipe; CREATE TABLE imagepipe.entity_images (theirs int)",
        # A column that the CMS uses for something else, so that an index cannot be made:
        "ALTER TABLE ai_image_generation_logs RENAME created_at TO logged_at",
    ],
)
def test_a_failed_migration_leaves_the_database_as_it_was(
    empty_database_url: str, connection: psycopg.Connection[Any], obstacle: str
) -> None:
    connection.execute(obstacle)
    before, ours = dump(connection), our_tables(connection)
    with pytest.raises(sa.exc.ProgrammingError):
        migrate.upgrade(empty_database_url)
    assert dump(connection) == before
    assert our_tables(connection) == ours
    assert migrate.current(empty_database_url) is None


def test_a_failed_downgrade_leaves_the_database_as_it_was(
    empty_database_url: str, connection: psycopg.Connection[Any]
) -> None:
    migrate.upgrade(empty_database_url)
    connection.execute("CREATE VIEW report AS SELECT * FROM imagepipe.requests")
    before, ours = dump(connection), our_tables(connection)
    with pytest.raises(sa.exc.InternalError, match="report"):
        migrate.downgrade(empty_database_url)
    assert dump(connection) == before
    assert our_tables(connection) == ours
    assert migrate.current(empty_database_url) == migrate.newest()


def until_waiting(url: str, connections: int) -> None:
    """Return when so many connections to this database wait for a lock."""
    deadline = time.monotonic() + 60
    blocked = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        while column(connection, blocked) != [str(connections)]:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_of_two_upgrades_at_once_one_migrates_and_both_succeed(
    empty_database_url: str, connection: psycopg.Connection[Any], isolation: str
) -> None:
    connection.execute(
        sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = {}").format(
            sql.Identifier(connection.info.dbname), isolation
        )
    )
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        with connection.transaction(force_rollback=True):
            connection.execute("CREATE SCHEMA imagepipe")  # until it is gone, neither gets on
            upgrades = [processes.submit(migrate.upgrade, empty_database_url) for _ in range(2)]
            until_waiting(empty_database_url, 2)
        for upgrade in upgrades:
            upgrade.result()
    assert migrate.current(empty_database_url) == migrate.newest()
    assert column(connection, "SELECT count(*) FROM imagepipe.alembic_version") == ["1"]


def concerns_queries(item: Any, name: str | None, type_: str, _reflected: bool, _: object) -> bool:
    """Of the CMS's tables only the columns: their constraints and indexes are its own affair."""
    schema = item.schema if type_ == "table" else item.table.schema
    return name != "alembic_version" and (schema == SCHEMA or type_ in ("table", "column"))


def test_the_tables_that_queries_are_written_against_are_those_that_were_made(
    database_url: str,
) -> None:
    engine = sa.create_engine(sync_url(database_url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_object": concerns_queries,
                "version_table_schema": SCHEMA,
            },
        )
        differences = compare_metadata(context, metadata)
    assert [d for d in differences if d[0] != "remove_table_comment"] == []  # our mark


@pytest.mark.parametrize(
    ("asset_type", "allowed"),
    [
        ("listing_image", True),
        ("blog_image", True),
        ("og_image", True),
        ("neighborhood_image", True),
        ("other", True),
        ("listing", False),
    ],
)
def test_our_media_assets_have_the_cmss_asset_types(
    database_url: str, asset_type: str, allowed: bool
) -> None:
    with psycopg.connect(database_url) as connection:
        insert = "INSERT INTO media_assets VALUES (DEFAULT, 'p', 'u', 's', %s)"
        if allowed:
            connection.execute(insert, [asset_type])
        else:
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute(insert, [asset_type])


def test_costs_have_four_decimals_in_both_tables(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        found = dump(connection)["columns"]
    assert found["media_assets", "generation_cost"][0] == "numeric(10,4)"
    assert found["ai_image_generation_logs", "cost"] == ("numeric(10,4)", True, "0")
