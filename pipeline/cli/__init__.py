"""The command line: `imagepipe COMMAND`. Every command decodes, calls the pipeline, and prints.

Exit codes: 0 done, 1 something was refused or failed (named in the output), 2 wrong usage or
configuration, 3 work remains that waits for a limit, 4 the database or the broker is away.
"""

import sys

import typer
from kafka.errors import KafkaError
from sqlalchemy.exc import DBAPIError

from pipeline.cli import (
    api,
    backfill,
    demo,
    dlq,
    explain,
    jobs,
    ledger,
    limits,
    migrate,
    prune,
    publish,
    ready,
    reconcile,
    replay,
    resume,
    status,
    up,
    watch,
    worker,
)
from pipeline.database import is_transient
from pipeline.settings import SettingsError
from pipeline.topics import BrokerAway

FAILED, WRONG, AWAY = 1, 2, 4

app = typer.Typer(
    name="imagepipe",
    help="Turns a CMS's entity-created events into pictures, each paid for once.",
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage or configuration, "
    "3 parked work remains, 4 database or broker away.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("up")(up.up)
app.command("demo")(demo.demo)
app.command("migrate")(migrate.migrate)
app.command("worker")(worker.worker)
app.command("api")(api.api)
app.command("api-key")(api.api_key)
app.command("publish")(publish.publish)
app.command("watch")(watch.watch)
app.command("status")(status.status)
app.command("ready")(ready.ready)
app.command("plan")(backfill.plan)
app.command("generate-missing")(backfill.generate_missing)
app.add_typer(limits.app, name="limits")
app.add_typer(jobs.app, name="jobs")
app.add_typer(ledger.app, name="ledger")
app.add_typer(dlq.app, name="dlq")
app.command("explain")(explain.explain)
app.command("replay")(replay.replay)
app.command("reconcile")(reconcile.reconcile)
app.command("prune")(prune.prune)
app.command("resume")(resume.resume)


def main() -> None:
    """The console script's entry: expected trouble ends in one line, not in a stack trace."""
    try:
        app()
    except SettingsError as error:
        _end(str(error), WRONG)
    except (BrokerAway, KafkaError) as error:
        _end(f"Kafka: {error}", AWAY)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in ("3F000", "42P01", "42703"):
            _end("the database is not migrated: run imagepipe migrate", WRONG)
        if not is_transient(error):
            raise
        _end(f"the database is away: {error.orig}", AWAY)


def _end(message: str, code: int) -> None:
    one_line = " ".join(message.split())
    sys.stderr.write(f"imagepipe: {one_line}\n")
    sys.exit(code)
