"""The evidence: everything that Kafka, PostgreSQL and the sandbox hold when all is quiet."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from pipeline.rules.limits import Limit
from sandbox.models import Order, usage
from sandbox.records import Purchase
from tests.chaos.attack import Casualties
from tests.chaos.plan import Event
from tests.chaos.windows import Amount

TOKEN = re.compile(r"\b[PSM]\d{5}\b")

TEXT_IN, IMAGE_OUT = 5, 30
"""Micro-dollars per token of the model that is used: OpenAI's prices, written down once more."""


@dataclass(frozen=True, slots=True)
class Received:
    """A record of the input topic, as the broker keeps it."""

    place: tuple[int, int]  # partition, offset
    key: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """One published outcome; `id` is its ce_id, `cause` the id of the event that it answers."""

    kind: str  # ready | failed | deferred
    id: str
    cause: str
    data: dict[str, Any]
    value: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the history: a row as it was from then on."""

    relation: str
    at: datetime
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the audit judges."""

    published: Sequence[Event]
    casualties: Casualties
    received: Sequence[Received]
    outcomes: Sequence[Outcome]
    dead_letters: Sequence[tuple[int, int]]  # the place of the original, once per publication
    purchases: Sequence[Purchase]
    uploads: int
    files: dict[str, str]  # url -> SHA-256 of what is served there
    limits: Sequence[Limit]
    history: Sequence[Step]
    tables: dict[str, list[DictRow]]

    def rows(self, table: str) -> list[DictRow]:
        return self.tables[table]

    @property
    def ledger(self) -> list[Amount]:
        """The reservations as they are now, in the order of their instants."""
        return sorted((_amount(row) for row in self.rows("reservations")), key=lambda one: one.at)

    @property
    def ledger_steps(self) -> list[Amount]:
        """Every state of every reservation, in the order in which the ledger changed."""
        return [_amount(s.row) for s in self.history if s.relation == "reservations"]

    def by_token(self) -> dict[str, list[DictRow]]:
        """The attempts of each picture."""
        tokens = {row["id"]: token_of(row["prompt"]) for row in self.rows("jobs")}
        found: dict[str, list[DictRow]] = defaultdict(list)
        for row in self.rows("attempts"):
            found[tokens[row["job_id"]]].append(row)
        return found

    def ever_unknown(self) -> set[str]:
        """The attempts that were recorded as unknown, whatever was learnt of them afterwards."""
        return {
            step.row["id"]
            for step in self.history
            if step.relation == "attempts" and step.row["state"] == "unknown"
        }


def token_of(prompt: str) -> str:
    """The token of the picture that a prompt describes."""
    found = TOKEN.search(prompt)
    assert found, prompt
    return found[0]


def bill(purchase: Purchase) -> int:
    """The micro-dollars that the provider would ask for a picture."""
    width, _, height = purchase.size.partition("x")
    order = Order(
        purchase.model,
        purchase.prompt,
        int(width),
        int(height),
        purchase.quality,
        purchase.output_format,
        purchase.style,
        by_url=False,
    )
    counted = usage(order)
    assert counted is not None
    return int(counted["input_tokens"] * TEXT_IN + counted["output_tokens"] * IMAGE_OUT)


def _amount(row: dict[str, Any]) -> Amount:
    at = row["at"]
    return Amount(
        str(row["id"]),
        datetime.fromisoformat(at) if isinstance(at, str) else at,
        row["source"],
        row["type"],
        row["requests"],
        row["microusd"],
    )
