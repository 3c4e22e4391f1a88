"""Secrets stay where they were configured, whatever fails: every place is searched for marks."""

from collections.abc import Iterator
from contextlib import chdir

import psycopg
from psycopg import sql
from sqlalchemy import make_url
from typer.testing import CliRunner

from pipeline.cli import app
from sandbox.cloudinary_api import API_SECRET
from sandbox.faults import Fault
from tests.acceptance.harness import Outcomes, World, entity

OPENAI_KEY = "sk-mark-of-the-openai-key-7f3a"
SASL_PASSWORD = "mark-of-the-sasl-password-91be"
DATABASE_PASSWORD = "mark-of-the-database-password-c04d"

TROUBLE = {
    "Yankı": "echo",
    "Yasak": "moderation_blocked",
    "Bozuk": "bad_request",
    "Kopuk": "reset",
    "Yavaş": "rate_limit_ms",
    "Dolu": "overloaded",
    "Çöp": "html",
}
REFUSED = "Anahtar"  # the picture for which the key itself is refused


OUR_TABLES = """
    SELECT table_schema, table_name FROM information_schema.tables
    WHERE table_schema IN ('public', 'imagepipe')
"""


def with_password(url: str) -> tuple[str, str]:
    """The URL with a password to look for: its own, or one that a trusting server ignores."""
    parsed = make_url(url)
    if not parsed.password:
        parsed = parsed.set(password=DATABASE_PASSWORD)
    return parsed.render_as_string(hide_password=False), str(parsed.password)


def everything_stored(database_url: str) -> Iterator[str]:
    """Every row of every table, as text."""
    with psycopg.connect(database_url) as connection:
        for table in connection.execute(OUR_TABLES).fetchall():
            rows = sql.SQL("SELECT CAST(t AS text) FROM {} t").format(sql.Identifier(*table))
            for (row,) in connection.execute(rows):
                yield row


def everything_published(outcomes: Outcomes) -> Iterator[str]:
    """Every record of every outcome topic, headers included, as text."""
    for records in (outcomes.ready, outcomes.failed, outcomes.deferred, outcomes.dead_letters):
        for record in records:
            yield f"{record.key} {record.value!r} {record.headers}"


def everything_shown(world: World) -> Iterator[str]:
    """What the commands print, of every job too."""
    jobs = [f"jobs show {job} --json" for (job,) in world.query("SELECT id FROM imagepipe.jobs")]
    runner = CliRunner(env=world.environment)
    with chdir(world.directory):
        for command in ("status --json", "jobs list --json", "ready --json", *jobs):
            answer = runner.invoke(app, command.split())
            assert answer.exception is None
            yield answer.output


def test_no_secret_leaves_the_configuration(world: World, database_url: str) -> None:
    url, database_password = with_password(database_url)
    secrets = [OPENAI_KEY, API_SECRET, SASL_PASSWORD, database_password]
    world.environment |= {
        "IMAGEPIPE_OPENAI_API_KEY": OPENAI_KEY,
        "IMAGEPIPE_DATABASE_URL": url,
        "IMAGEPIPE_KAFKA_SASL_PASSWORD": SASL_PASSWORD,
        "IMAGEPIPE_MAX_TRIES": "2",
    }
    for prompt, kind in TROUBLE.items():
        world.sandbox.faults.add(Fault("openai", kind, prompt_contains=prompt, retry_after=0.2))
    world.sandbox.faults.add(Fault("cloudinary", "unauthorized"))
    world.sandbox.faults.add(Fault("cloudinary", "server_error"))
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE imagepipe.requests ADD CHECK (alt <> 'Lanetli')")
    worker = world.start_worker()
    titles = [*TROUBLE, "Lanetli", "Sağlam", "Güzel"]
    world.publish([entity(number, title) for number, title in enumerate(titles)])
    world.produce([(b"listing:99", b"{}", [])])
    outcomes = world.outcomes(ready=1, failed=2, dead_letters=2)
    worker.wait_for_log("upload failed")
    world.sandbox.faults.add(Fault("openai", "unauthorized", times=9, prompt_contains=REFUSED))
    world.publish([entity(100, REFUSED)])
    worker.wait_for_log("image model closed, calls paused")

    said = [
        worker.log,
        *everything_published(outcomes),
        *everything_stored(database_url),
        *everything_shown(world),
    ]
    for word in ("http_502", "policy", "database_refused", "unauthorized", "connection_lost"):
        assert any(word in text for text in said)  # the search looks where the trouble is
    assert [secret for secret in secrets if any(secret in text for text in said)] == []
