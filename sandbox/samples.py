"""Twenty sample entities: some repeated in other words, one broken."""

from pathlib import Path

FILE = Path(__file__).with_name("samples.jsonl")


def read() -> list[str]:
    """The samples as lines of JSON, each the data of an `entity-created` event."""
    return FILE.read_text("utf-8").splitlines()
