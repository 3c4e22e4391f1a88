"""`imagepipe migrate`."""

from typing import Annotated

import typer

from pipeline import migrate as migrations
from pipeline.settings import load


def migrate(
    down: Annotated[bool, typer.Option("--down", help="Take imagepipe out again.")] = False,
) -> None:
    """Bring the database to the newest schema, in one transaction.

    The CMS's tables are extended, or made where they are missing; what it owns stays as it is.

    Example: DATABASE_URL=postgresql://user:password@localhost/cms imagepipe migrate
    """
    settings = load()
    settings.require("database_url")
    if down:
        migrations.downgrade(settings.database_url)
        typer.echo("imagepipe's schema is gone; tables that were there before stay")
        return
    before = migrations.current(settings.database_url)
    migrations.upgrade(settings.database_url)
    after = migrations.newest()
    typer.echo(f"database is at {after}" + (" already" if before == after else f", was {before}"))
