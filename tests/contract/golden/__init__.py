"""Golden events: a record as it arrives, the identity it has, and the outcome that answers it.

The files are the contract with producers and consumers; a change to one of them is a change that
they notice.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.events import Record

GOLDEN = [
    pytest.param(json.loads(path.read_text(encoding="utf-8")), id=path.stem)
    for path in sorted(Path(__file__).parent.glob("*.json"))
]


def record_of(golden: dict[str, Any]) -> Record:
    """The record as Kafka hands it over."""
    given = golden["record"]
    return Record(
        topic=given["topic"],
        partition=given["partition"],
        offset=given["offset"],
        timestamp_ms=given["timestampMs"],
        key=None if given["key"] is None else given["key"].encode(),
        value=given["value"].encode(),
        headers=tuple((name, text.encode()) for name, text in given["headers"]),
    )
