"""`imagepipe jobs list|show|retry|cancel`."""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, TypeVar
from uuid import UUID

import typer
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import operations, wiring
from pipeline.cli.screen import console, plain
from pipeline.cli.session import in_transaction
from pipeline.operations import NotPossible, Story
from pipeline.rules.lifecycle import JobState
from pipeline.settings import load

T = TypeVar("T")

app = typer.Typer(help="See single jobs, try them again, cancel them.", no_args_is_help=True)

JobId = Annotated[UUID, typer.Argument(help="As `imagepipe jobs list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
UNFINISHED = [state for state in JobState if state is not JobState.DONE]


@app.command("list")
def list_(
    state: Annotated[
        list[JobState] | None, typer.Option("--state", help="Only these; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first; without --state all but those that are done.

    Example: imagepipe jobs list --state failed
    """
    find = partial(operations.find, states=state or UNFINISHED, limit=limit)
    rows = in_transaction(load(), find)
    if as_json:
        typer.echo(json.dumps([plain(row) for row in rows], indent=2))
        return
    table = Table("job", "state", "source", "type", "entity", "tries", "due (UTC)", "error")
    for row in rows:
        entity = f"{row.entity_type}:{row.entity_id}" if row.entity_type else ""
        error = f"{row.error_code}: {row.error_message}" if row.error_code else ""
        tries = str(row.tries + row.unknowns)
        due = f"{row.due_at:%m-%d %H:%M:%S}"
        table.add_row(str(row.id), row.state, row.source, row.type, entity, tries, due, error)
    console().print(table)


@app.command("show")
def show(job: JobId, as_json: AsJson = False) -> None:
    """Show a job, its attempts and the requests that wait or waited for it.

    Exits with 1 when there is no such job.

    Example: imagepipe jobs show 2421a2fd-8c1d-5fdc-ac1f-47b6b2ccc37b
    """
    story = _possible(partial(operations.story, job_id=job))
    data = {
        "job": plain(story.job),
        "attempts": [plain(row) for row in story.attempts],
        "requests": [plain(row) for row in story.requests],
    }
    if as_json:
        typer.echo(json.dumps(data, indent=2))
    else:
        _print(story)


@app.command("retry")
def retry(job: JobId) -> None:
    """Try a job again at once: a waiting, a failed one, or the upload of a picture in the spool.

    Exits with 1 when there is nothing to try again.

    Example: imagepipe jobs retry 2421a2fd-8c1d-5fdc-ac1f-47b6b2ccc37b
    """
    state = _possible(partial(operations.retry, job_id=job))
    typer.echo(f"job {job} is {state}, and due now")


@app.command("cancel")
def cancel(job: JobId) -> None:
    """End a queued job; everybody who waits for it gets image-failed with code cancelled.

    Exits with 1 when the job has been claimed already.

    Example: imagepipe jobs cancel 2421a2fd-8c1d-5fdc-ac1f-47b6b2ccc37b
    """
    topics = wiring.topics(load())
    _possible(partial(operations.cancel, job_id=job, topics=topics))
    typer.echo(f"job {job} is cancelled")


def _possible(work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    try:
        return in_transaction(load(), work)
    except NotPossible as error:
        typer.echo(f"imagepipe: {error}", err=True)
        raise typer.Exit(1) from None


def _print(story: Story) -> None:
    screen = console()
    for name, value in plain(story.job).items():
        if value is not None:
            screen.print(f"{name:16} {value}", highlight=False, markup=False)
    attempts = Table("attempt", "state", "started (UTC)", "money", "micro-USD", "error")
    for row in story.attempts:
        error = f"{row.error_code}: {row.error_message}" if row.error_code else ""
        started = f"{row.started_at:%m-%d %H:%M:%S}"
        attempts.add_row(str(row.id), row.state, started, row.money, str(row.microusd), error)
    screen.print(attempts)
    askers = Table("request", "state", "entity", "event", "cached", "error")
    for row in story.requests:
        entity = f"{row.entity_type}:{row.entity_id}" if row.entity_type else ""
        cached = "" if row.cached is None else str(row.cached).lower()
        askers.add_row(str(row.id), row.state, entity, row.event_id, cached, row.error_code or "")
    screen.print(askers)
