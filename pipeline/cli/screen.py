"""How commands print: as wide as the terminal, or wide enough where there is none."""

import sys
from typing import Any

from rich.console import Console
from sqlalchemy import Row

WIDTH = 180  # columns, in a pipe or a log


def console() -> Console:
    """Standard output, for tables."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def plain(row: Row[Any]) -> dict[str, Any]:
    """A row as JSON: ids and instants as text."""
    return {
        name: value if isinstance(value, int | bool | dict | None) else str(value)
        for name, value in row._mapping.items()
    }
