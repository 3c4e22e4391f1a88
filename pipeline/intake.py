"""Intake: one transaction that writes a batch of requests down and finds each one's picture.

One set-based statement records the batch and answers its hits (`pipeline.hits`), a few more
follow where pictures are missing. Whoever calls it, agent, HTTP or command, commits before
acknowledging anything.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import answers, assets, hits, jobs, outbox, refusals, requests
from pipeline.answers import FREE, Topics
from pipeline.assets import StoredAsset
from pipeline.preparation import Prepared
from pipeline.requests import Asker

ROUNDS = 20
"""A request is looked up again when its job ends under its hands; twenty times is a bug."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a batch: how many requests were new, which of those were answered at once,
    and what their pictures had cost (micro-dollars)."""

    new: int
    answered: frozenset[UUID]
    saved_microusd: int

    @property
    def hits(self) -> int:
        return len(self.answered)

    @property
    def waiting(self) -> int:
        return self.new - self.hits

    def __add__(self, other: "Recorded") -> "Recorded":
        return Recorded(
            self.new + other.new,
            self.answered | other.answered,
            self.saved_microusd + other.saved_microusd,
        )


async def record(
    connection: AsyncConnection, batch: Sequence[Prepared], *, topics: Topics, trial: bool
) -> Recorded:
    """Record each request once; answer the hits, let the others join or open a job."""
    unique = _first_of_each_id(batch)
    entries = await hits.record(connection, unique, topics=topics, trial=trial)
    new = [p for p in unique if p.id in entries]
    answered = {id_: entry.saved_microusd for id_, entry in entries.items() if entry.is_hit}
    missing = [p for p in new if p.id not in answered]
    if missing:
        askers = {p.id: requests.asker(p, entries[p.id].sequence) for p in missing}
        late = await _place(connection, missing, askers, topics=topics, trial=trial)
        answered |= {id_: asset.cost_microusd for id_, asset in late.items()}
    if _some_follow(new, entries):
        newer = [(requests.asker(p, entries[p.id].sequence), p) for p in new]
        await refusals.supersede(connection, newer, topics)
    return Recorded(len(new), frozenset(answered), sum(answered.values()))


def _some_follow(new: Sequence[Prepared], entries: Mapping[UUID, hits.Entry]) -> bool:
    """Whether an earlier request for the same entity waits, or is in this very batch."""
    keys = [key for p in new if (key := p.request.upload.entity_key)]
    return any(entry.follows for entry in entries.values()) or len(set(keys)) < len(keys)


def _first_of_each_id(batch: Sequence[Prepared]) -> list[Prepared]:
    first: dict[UUID, Prepared] = {}
    for prepared in batch:
        first.setdefault(prepared.id, prepared)
    return list(first.values())


async def _find(
    connection: AsyncConnection, batch: Sequence[Prepared], *, trial: bool
) -> dict[UUID, StoredAsset]:
    """The assets that answer requests of the batch. skipCache asks for a new picture."""
    askable = [p for p in batch if not p.request.skip_cache]
    found = await assets.find(
        connection,
        [hash_ for p in askable for hash_ in p.context_hashes],
        [p.prompt_hash for p in askable],
        trial=trial,
    )
    best = {p.id: found.get(p.context_hashes, p.prompt_hash) for p in askable}
    return {id_: asset for id_, asset in best.items() if asset}


async def _answer(
    connection: AsyncConnection,
    askers: dict[UUID, Asker],
    found: dict[UUID, StoredAsset],
    topics: Topics,
) -> None:
    """Everything a hit leaves behind: usage, the entity's picture, the outcome."""
    if not found:
        return
    await assets.count_uses(connection, Counter(asset.id for asset in found.values()))
    await assets.link_entities(
        connection, [(askers[id_], asset.id, True) for id_, asset in found.items()]
    )
    await outbox.add(
        connection,
        [(answers.ready(topics, askers[id_], asset, FREE), id_) for id_, asset in found.items()],
    )


async def _place(
    connection: AsyncConnection,
    waiting: list[Prepared],
    askers: dict[UUID, Asker],
    *,
    topics: Topics,
    trial: bool,
) -> dict[UUID, StoredAsset]:
    """Join or open a job for each waiting request; returns those that were hits after all.

    A job that ends while its row is being waited for is not joined, and its asset is there to be
    found. So a job is opened only where neither was, and joined in the next round, whoever of
    several was first to open it.
    """
    late: dict[UUID, StoredAsset] = {}
    for _ in range(ROUNDS):
        joined = await jobs.join(connection, waiting)
        await requests.attach(connection, joined)
        waiting = [p for p in waiting if p.id not in joined]
        found = await _find(connection, waiting, trial=trial)
        for id_, asset in found.items():
            await requests.finish_ready(connection, asset.id, paid=[], cached=[id_])
        await _answer(connection, askers, found, topics)
        late |= found
        waiting = [p for p in waiting if p.id not in found]
        if not waiting:
            return late
        await jobs.open_missing(connection, waiting, askers)
    raise RuntimeError(f"{len(waiting)} requests found neither an asset nor a job")
