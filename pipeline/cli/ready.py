"""`imagepipe ready`."""

import json
from typing import Annotated

import typer

from pipeline import health
from pipeline.settings import load


def ready(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    within: Annotated[
        float, typer.Option("--within", min=0, help="Seconds in which the consumer has to move.")
    ] = 10,
) -> None:
    """Say whether the pipeline is ready; exits with 1 and names what is not.

    Ready means: the database answers and is migrated, the broker answers, all topics are there,
    and where records wait, the workers record some of them in time.

    Example: imagepipe ready --within 30
    """
    settings = load()
    settings.require("database_url", "kafka_bootstrap_servers")
    found = health.look(settings, within=within)
    if as_json:
        data = {"ready": found.is_ready, "notReady": dict(found.troubles), "lag": found.lag}
        typer.echo(json.dumps(data, indent=2))
    elif found.is_ready:
        typer.echo(f"ready, {found.lag} records wait")
    for part, trouble in found.troubles.items():
        typer.echo(f"{part} not ready: {trouble}", err=True)
    if not found.is_ready:
        raise typer.Exit(1)
