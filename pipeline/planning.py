"""What a backfill would do: entity by entity, in batches, with a constant number of set-based
look-ups for each. Reads only.

A source may be large, so what has been seen before is remembered on disk, not in memory.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import assets, ledger
from pipeline.assets import Found as FoundAssets
from pipeline.jobs import LIVE_STATES
from pipeline.preparation import Prepared, prepare
from pipeline.rules.calls import PromptTooLong
from pipeline.rules.catalogue import Model
from pipeline.rules.lifecycle import RequestState, Source
from pipeline.rules.limits import Limit
from pipeline.sources import Found, HasPhoto, Invalid, Wanted

SHOWN_REASONS = 10


class Fate(StrEnum):
    """What becomes of an entity."""

    PHOTO = "photo"  # it has a real one
    INVALID = "invalid"
    DUPLICATE = "duplicate"  # it stood in the source before
    DONE = "done"  # it has a picture
    UNDERWAY = "underway"  # it was asked for before, and waits
    FAILED = "failed"  # it was asked for before, and failed
    HIT = "hit"  # its picture exists
    JOIN = "join"  # its picture is being made, or another entity of the source asks for it
    GENERATE = "generate"


ENTERED = frozenset({Fate.HIT, Fate.JOIN, Fate.GENERATE})
"""Entities that are still to be asked for."""


@dataclass(frozen=True, slots=True)
class Planned:
    """An entity of the source and its fate; `prepared` where it can be asked for."""

    where: str
    fate: Fate
    prepared: Prepared | None = None
    reason: str = ""
    new_context: bool = False  # the first of the source that asks for this


@dataclass(slots=True)
class Plan:
    """Sums over a source. Micro-dollars; `expected` by what such pictures have cost so far."""

    fates: Counter[Fate] = field(default_factory=Counter)
    contexts: int = 0  # distinct ones among what is still to be asked for
    bound: int = 0
    expected: int = 0
    by_type: Counter[str] = field(default_factory=Counter)  # to generate, by request type
    expected_by_type: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)

    @property
    def entities(self) -> int:
        return self.fates.total()

    def add(self, planned: Planned, expected: int) -> None:
        self.fates[planned.fate] += 1
        self.contexts += planned.new_context
        if planned.fate is Fate.INVALID and len(self.reasons) < SHOWN_REASONS:
            self.reasons.append(f"{planned.where}: {planned.reason}")
        if planned.fate is Fate.GENERATE and planned.prepared:
            purchase = planned.prepared.purchase
            self.bound += purchase.microusd
            self.expected += expected
            self.by_type[purchase.type] += 1
            self.expected_by_type[purchase.type] += expected


class Planner:
    """Plans the entities of one source, in the order in which they come."""

    def __init__(
        self, source: str, model: Model, *, output_format: str, trial: bool, seen: "Seen"
    ) -> None:
        self.event_source = f"urn:imagepipe:backfill:{source}"
        self._model = model
        self._output_format = output_format
        self._trial = trial
        self._seen = seen

    async def plan(self, connection: AsyncConnection, batch: Sequence[Found]) -> list[Planned]:
        """The fates of a batch; every entity counts as seen from then on."""
        readable = [self._prepared(found) for found in batch]
        prepared = [p.prepared for p in readable if p.prepared]
        done = await _with_picture(connection, prepared)
        known = await _known(connection, prepared)
        found = await assets.find(
            connection,
            [hash_ for p in prepared for hash_ in p.context_hashes],
            [p.prompt_hash for p in prepared],
            trial=self._trial,
            lock=False,
        )
        live = await _live(connection, prepared)
        planned: list[Planned] = []
        for one in readable:
            if one.prepared is None:
                planned.append(one)
                continue
            fate = self._fate(one.prepared, done, known, found, live)
            new = fate in ENTERED and self._seen.add("context", one.prepared.context_hash)
            planned.append(Planned(one.where, fate, one.prepared, new_context=new))
        return planned

    def _prepared(self, found: Found) -> Planned:
        match found:
            case HasPhoto(where):
                return Planned(where, Fate.PHOTO)
            case Invalid(where, reason):
                return Planned(where, Fate.INVALID, reason=reason)
            case Wanted(where, request):
                try:
                    prepared = prepare(
                        request,
                        self._model,
                        event_source=self.event_source,
                        event_id=found.key,
                        source=Source.BACKFILL,
                        output_format=self._output_format,
                    )
                except PromptTooLong as error:
                    return Planned(where, Fate.INVALID, reason=str(error))
                return Planned(where, Fate.GENERATE, prepared)

    def _fate(
        self,
        prepared: Prepared,
        done: set[str],
        known: dict[str, str],
        found: FoundAssets,
        live: set[str],
    ) -> Fate:
        key = prepared.event_id
        if not self._seen.add("entity", key):
            return Fate.DUPLICATE
        if key in done:
            return Fate.DONE
        if state := known.get(key):
            states = {RequestState.WAITING: Fate.UNDERWAY, RequestState.FAILED: Fate.FAILED}
            return states.get(RequestState(state), Fate.DONE)
        return self._fate_of_new(prepared, found, live)

    def _fate_of_new(self, prepared: Prepared, found: FoundAssets, live: set[str]) -> Fate:
        if prepared.request.skip_cache:
            return Fate.GENERATE
        if found.get(prepared.context_hashes, prepared.prompt_hash):
            return Fate.HIT
        hashes = (prepared.context_hash, prepared.prompt_hash)
        if not live.isdisjoint(hashes) or any(self._seen.has("picture", h) for h in hashes):
            return Fate.JOIN
        for hash_ in hashes:
            self._seen.add("picture", hash_)
        return Fate.GENERATE


async def _with_picture(connection: AsyncConnection, batch: Sequence[Prepared]) -> set[str]:
    """The keys of entities that have an image, from us or from the CMS."""
    rows = await connection.execute(
        text("""
            SELECT k.type, k.id
            FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[])) AS k (type, id)
            WHERE EXISTS (SELECT FROM imagepipe.entity_images e
                          WHERE e.entity_type = k.type AND e.entity_id = k.id
                            AND e.asset_id IS NOT NULL)
               OR EXISTS (SELECT FROM media_assets m
                          WHERE m.entity_type = k.type AND m.entity_id = k.id)
        """),
        {
            "types": [p.request.upload.entity_type for p in batch],
            "ids": [p.request.upload.entity_id for p in batch],
        },
    )
    return {f"{row.type}:{row.id}" for row in rows}


async def _known(connection: AsyncConnection, batch: Sequence[Prepared]) -> dict[str, str]:
    """The states of requests that the source has made before, by entity key."""
    rows = await connection.execute(
        text("SELECT event_id, state FROM imagepipe.requests WHERE id = ANY(:ids)"),
        {"ids": [p.id for p in batch]},
    )
    return {row.event_id: row.state for row in rows}


async def _live(connection: AsyncConnection, batch: Sequence[Prepared]) -> set[str]:
    """The hashes of pictures that are being made already."""
    rows = await connection.execute(
        text(f"""
            SELECT context_hash, prompt_hash FROM imagepipe.jobs
            WHERE state IN {LIVE_STATES} AND joinable
              AND (context_hash = ANY(CAST(:context_hashes AS text[]))
                   OR prompt_hash = ANY(CAST(:prompt_hashes AS text[])))
        """),
        {
            "context_hashes": [p.context_hash for p in batch],
            "prompt_hashes": [p.prompt_hash for p in batch],
        },
    )
    return {hash_ for row in rows for hash_ in row}


class Seen:
    """Words seen before, by kind, in a temporary database on disk."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("CREATE TABLE seen (kind TEXT, word TEXT, PRIMARY KEY (kind, word))")

    def add(self, kind: str, word: str) -> bool:
        """Whether the word is new."""
        done = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (kind, word))
        return done.rowcount > 0

    def has(self, kind: str, word: str) -> bool:
        query = "SELECT 1 FROM seen WHERE kind = ? AND word = ?"
        return self._database.execute(query, (kind, word)).fetchone() is not None


@contextmanager
def nothing_seen() -> Iterator[Seen]:
    """An empty memory, which is gone afterwards."""
    with closing(sqlite3.connect("", check_same_thread=False)) as database:
        yield Seen(database)


class History:
    """What pictures have cost so far: the average by model, size and quality, in micro-dollars."""

    def __init__(self, averages: dict[tuple[str, str, str], int]) -> None:
        self._averages = averages

    @classmethod
    async def read(cls, connection: AsyncConnection) -> "History":
        rows = await connection.execute(
            text("""
                SELECT j.model, j.size, j.quality, CAST(ceil(avg(a.cost_microusd)) AS bigint)
                FROM imagepipe.attempts a JOIN imagepipe.jobs j ON j.id = a.job_id
                WHERE a.state = 'bought' GROUP BY j.model, j.size, j.quality
            """)
        )
        return cls({(model, size, quality): cost for model, size, quality, cost in rows})

    def expected(self, prepared: Prepared) -> int:
        """The usual cost of such a picture; its upper bound where there is no history."""
        call = prepared.call
        found = self._averages.get((call.model, call.size, call.quality))
        return prepared.bound_microusd if found is None else min(found, prepared.bound_microusd)


async def seconds_needed(
    connection: AsyncConnection, purchases: Counter[str], microusd: Counter[str]
) -> float | None:
    """How long purchases, and their micro-dollars, by request type, take a backfill under the
    limits of now, if nothing else is bought; None when a limit lets none through. The slowest limit
    counts."""
    now = await ledger.now(connection)
    slowest = 0.0
    for limit in await ledger.read_limits(connection):
        number, money = (_concerned(limit, needed) for needed in (purchases, microusd))
        used = await ledger.count(connection, limit, now)
        for need, maximum, taken in (
            (number, limit.max_requests, used.requests),
            (money, limit.max_microusd, used.microusd),
        ):
            if maximum is None or need == 0:
                continue
            if maximum == 0:
                return None
            beyond = need - max(0, maximum - taken)
            slowest = max(slowest, ceil(beyond / maximum) * limit.span_seconds)
    return slowest


def _concerned(limit: Limit, needed: Counter[str]) -> int:
    """How much of what a backfill needs falls into a limit's scope."""
    if limit.scope in ("global", f"source:{Source.BACKFILL}"):
        return needed.total()
    return needed[limit.scope.removeprefix("type:")]


def in_batches(found: Iterable[Found], size: int) -> Iterator[list[Found]]:
    """Lists of at most `size`."""
    batch: list[Found] = []
    for one in found:
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
