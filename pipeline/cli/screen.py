"""Where commands print: as wide as the terminal, or wide enough where there is none."""

import sys

from rich.console import Console

WIDTH = 180  # columns, in a pipe or a log


def console() -> Console:
    """Standard output, for tables."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)
