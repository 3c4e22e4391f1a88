"""`imagepipe explain`."""

import json
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.cli.screen import console, plain
from pipeline.cli.session import in_transaction
from pipeline.explain import Explained, NothingFound
from pipeline.explain import explain as read
from pipeline.settings import load
from schemas.wire import usd


def explain(
    what: Annotated[
        str, typer.Argument(help="TYPE:ID of an entity, a request's id, a context or prompt hash.")
    ],
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=100, help="Requests to show, the newest first.")
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Tell the whole story of an entity, a request or a hash.

    What came in, what was hashed, hit or job, its attempts and their money, the picture, and what
    was published when. Exits with 1 when there is nothing to tell.

    Example: imagepipe explain listing:1001
    """
    try:
        stories = in_transaction(load(), partial(read, word=what, limit=limit))
    except NothingFound as error:
        typer.echo(f"imagepipe: {error}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps([_data(story) for story in stories], indent=2))
        return
    screen = console()
    for story in stories:
        _print(screen, story)


def _data(story: Explained) -> dict[str, Any]:
    return {
        "request": plain(story.request),
        "canonicalForm": story.canonical,
        "job": plain(story.story.job) if story.story else None,
        "attempts": [plain(row) for row in story.story.attempts] if story.story else [],
        "asset": plain(story.asset) if story.asset else None,
        "messages": [
            {
                "topic": message.topic,
                "id": message.id,
                "createdAt": _when(message.created_at),
                "publishedAt": _when(message.published_at),
            }
            for message in story.messages
        ],
    }


def _print(screen: Console, story: Explained) -> None:
    request = story.request
    entity = f"{request.entity_type}:{request.entity_id}" if request.entity_type else "no entity"
    screen.rule(f"request {request.id}, {entity}", align="left")
    _line(screen, "came in", f"{_when(request.received_at)} as {request.source}")
    _line(screen, "event", f"{request.event_id} of {request.event_source}")
    _line(screen, "context hash", f"{request.context_hash}, version {request.hash_version}, of")
    _line(screen, "", story.canonical)
    _line(screen, "prompt hash", request.prompt_hash)
    _line(screen, "state", _state(story))
    if story.story:
        job = story.story.job
        opened = " (opened by this request)" if job.id == request.id else " (joined)"
        _line(screen, "job", f"{job.id} is {job.state}{opened}, {job.model} {job.size}")
        _line(screen, "prompt", job.prompt)
        for row in story.story.attempts:
            _line(screen, "attempt", _attempt(row))
    else:
        _line(screen, "job", "none: the picture existed")
    if story.asset:
        asset = story.asset
        _line(screen, "picture", f"{asset.id}, used {asset.usage_count} times")
        _line(screen, "", asset.cloudinary_secure_url)
    for message in story.messages:
        said = f"{message.topic} {message.id}, decided {_when(message.created_at)}"
        _line(screen, "said", f"{said}, published {_when(message.published_at) or 'not yet'}")


def _line(screen: Console, name: str, value: str) -> None:
    screen.print(f"{name:13} {value}", highlight=False, markup=False)


def _state(story: Explained) -> str:
    request = story.request
    words = [request.state]
    if request.cached is not None:
        words.append("from the cache" if request.cached else "bought")
    if request.error_code:
        words.append(request.error_code)
    if request.deferrals:
        words.append(f"deferred {request.deferrals} times")
    return ", ".join(words)


def _attempt(row: Any) -> str:
    money = f"{row.money} {usd(row.microusd):f} USD" if row.money else "no reservation"
    error = f", {row.error_code}: {row.error_message}" if row.error_code else ""
    return f"{row.id} {row.state} {_when(row.started_at)}, {money}{error}"


def _when(instant: datetime | None) -> str:
    return "" if instant is None else f"{instant:%Y-%m-%d %H:%M:%S} UTC"
