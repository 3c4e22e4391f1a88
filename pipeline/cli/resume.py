"""`imagepipe resume`."""

from functools import partial
from typing import Annotated

import typer

from pipeline import circuits
from pipeline.cli.session import in_transaction
from pipeline.settings import load


def resume(
    model: Annotated[str, typer.Argument(help="The model, as `imagepipe status` names it.")],
) -> None:
    """Let calls to a paused or stopped model go on, after its trouble has been seen to.

    Exits with 1 when that model was not stopped.

    Example: imagepipe resume gpt-image-2.5-flare
    """
    if not in_transaction(load(), partial(circuits.resume, model=model)):
        typer.echo(f"{model} was neither paused nor stopped", err=True)
        raise typer.Exit(1)
    typer.echo(f"{model}: calls go on")
