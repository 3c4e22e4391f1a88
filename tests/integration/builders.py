"""What the integration tests are made of: requests, records, pictures, and the pipeline's steps."""

import asyncio
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from PIL import Image
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline import claims, completion, deferral, generation, intake, ledger, settlement, wiring
from pipeline.adapters.pictures import inspect
from pipeline.answers import Topics
from pipeline.claims import Claim, Claimed, Head
from pipeline.errors import OutsideError
from pipeline.events import Record
from pipeline.intake import Recorded
from pipeline.messages import unpack_headers
from pipeline.ports import GeneratedImage, StoredImage, Usage
from pipeline.preparation import Prepared, prepare
from pipeline.rules.catalogue import Model
from pipeline.rules.lifecycle import Source
from pipeline.rules.limits import Limit
from pipeline.rules.retries import Patience
from pipeline.settlement import Received
from schemas.request import EntityCreated

TOPICS = Topics("image-ready", "image-failed", "image-deferred", "entity-created.dlq")
CATALOGUE = wiring.catalogue()
FLARE = CATALOGUE.model("gpt-image-2.5-flare")
SUNBURST = CATALOGUE.model("gpt-image-2.5-sunburst")
DALL_E = CATALOGUE.model("dall-e-3")
PATIENCE = Patience(max_tries=3, unknown_retries=1)
CMS = "urn:cms"

USAGE = Usage(text_tokens=20, image_tokens=0, output_tokens=439)
COST = 20 * 5 + 439 * 30  # micro-dollars of that usage at the default model's published rates

DEADLINE = 15.0  # seconds until a test gives up waiting for something that should happen


def request_data(title: str = "Modern Daire", entity: str = "1", **fields: Any) -> dict[str, Any]:
    """A listing's request as it goes over the wire; `fields` replace whole top-level members."""
    return {
        "type": "listing",
        "context": {"title": title},
        "upload": {"entityType": "listing", "entityId": entity},
        **fields,
    }


def asked(
    event_id: str,
    title: str = "Modern Daire",
    *,
    source: Source = Source.LIVE,
    model: Model = FLARE,
    **fields: Any,
) -> Prepared:
    """A prepared request for the entity with the event's id."""
    request = EntityCreated.from_wire(request_data(title, event_id, **fields))
    return prepare(request, model, event_source=CMS, event_id=event_id, source=source)


def record_of(offset: int, data: object, *, event_id: str | None = None) -> Record:
    """A record of the input topic: `data` as JSON (bytes as they are), as a CloudEvent's data."""
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": event_id or f"event-{offset}",
        "ce_source": CMS,
        "ce_type": "cms.entity-created.v1",
    }
    return Record(
        topic="entity-created",
        partition=0,
        offset=offset,
        timestamp_ms=1_700_000_000_000 + offset,
        key=b"listing:1",
        value=data if isinstance(data, bytes) else json.dumps(data).encode(),
        headers=tuple((name, value.encode()) for name, value in attributes.items()),
    )


@cache
def webp(colour: str) -> bytes:
    """A small one-coloured picture."""
    file = io.BytesIO()
    Image.new("RGB", (32, 16), colour).save(file, "webp")
    return file.getvalue()


def picture(
    colour: str = "teal",
    usage: Usage | None = USAGE,
    revised_prompt: str | None = "a revised prompt",
) -> GeneratedImage:
    """What the image model's adapter returns."""
    data = webp(colour)
    return GeneratedImage(data, inspect(data), usage, revised_prompt, "req_1")


def global_limit(
    *, requests: int | None = None, microusd: int | None = None, scope: str = "global"
) -> Limit:
    """An hour's limit."""
    return Limit(f"test-{scope}", scope, 3600, requests, microusd)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something outside PostgreSQL has happened."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 (nobody tells us)
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Said:
    """One message in the outbox, decoded."""

    topic: str
    key: str
    id: str  # ce_id
    data: dict[str, Any]


class Steps:
    """The pipeline's own steps on one database, each in a transaction of its own."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    async def rows(self, sql: str, **parameters: Any) -> Sequence[Row[Any]]:
        async with self.engine.begin() as connection:
            return (await connection.execute(text(sql), parameters)).all()

    async def row(self, sql: str, **parameters: Any) -> Row[Any]:
        [row] = await self.rows(sql, **parameters)
        return row

    async def value(self, sql: str, **parameters: Any) -> Any:
        return (await self.row(sql, **parameters))[0]

    async def execute(self, sql: str, **parameters: Any) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text(sql), parameters)

    async def limit(self, *limits: Limit) -> None:
        async with self.engine.begin() as connection:
            await ledger.apply_limits(connection, limits)

    async def ask(self, *batch: Prepared, trial: bool = False) -> Recorded:
        async with self.engine.begin() as connection:
            return await intake.record(connection, batch, topics=TOPICS, trial=trial)

    async def claim(self, slots: int = 8, *, trial: bool = False) -> Claim:
        async with self.engine.begin() as connection:
            return await claims.claim(
                connection, slots=slots, call_timeout=60, topics=TOPICS, trial=trial
            )

    async def claim_one(self) -> Claimed:
        [claimed] = (await self.claim()).claimed
        return claimed

    async def keep(self, claimed: Claimed, image: GeneratedImage | None = None) -> bool:
        [first] = await self.keep_together((claimed, image or picture()))
        return first

    async def keep_together(self, *bought: tuple[Claimed, GeneratedImage]) -> list[bool]:
        received = [
            Received(claimed.job_id, claimed.attempt_id, image) for claimed, image in bought
        ]
        async with self.engine.begin() as connection:
            kept = await settlement.keep_pictures(connection, received, CATALOGUE, lease_seconds=60)
        return [one.first for one in kept]

    async def fail(
        self, claimed: Claimed, error: OutsideError, patience: Patience = PATIENCE
    ) -> None:
        async with self.engine.begin() as connection:
            await settlement.record_failure(
                connection,
                claimed.job_id,
                claimed.attempt_id,
                error,
                patience=patience,
                topics=TOPICS,
            )

    async def give_up_expired(self) -> int:
        async with self.engine.begin() as connection:
            expired = await settlement.give_up_expired(connection, patience=PATIENCE, topics=TOPICS)
        return len(expired)

    async def hosted(self, job_id: UUID) -> StoredImage:
        """What the media host answers to the upload of the job's picture."""
        async with self.engine.begin() as connection:
            upload = await generation.read_upload(connection, job_id, "test")
        assert upload is not None
        facts, url = upload.facts, f"https://media.example/{upload.public_id}.webp"
        return StoredImage(
            upload.public_id, url, url, facts.width, facts.height, facts.format, facts.bytes
        )

    async def complete(self, job_id: UUID, *, trial: bool = False) -> bool:
        stored = await self.hosted(job_id)
        async with self.engine.begin() as connection:
            answered = await completion.complete(connection, job_id, stored, TOPICS, trial=trial)
        return bool(answered)

    async def make(self, *batch: Prepared, trial: bool = False) -> None:
        """Ask, and buy and store whatever is then to be bought, all in one colour per job."""
        await self.ask(*batch, trial=trial)
        for claimed in (await self.claim(trial=trial)).claimed:
            await self.keep(claimed)
            await self.complete(claimed.job_id, trial=trial)

    async def defer(self, heads: Mapping[str, Head]) -> int:
        async with self.engine.begin() as connection:
            return await deferral.announce_waiting(connection, heads, topics=TOPICS)

    async def said(self, topic: str | None = None) -> list[Said]:
        """The messages in the outbox, oldest first, of one topic or of all."""
        rows = await self.rows(
            "SELECT * FROM imagepipe.outbox WHERE CAST(:topic AS text) IS NULL OR topic = :topic"
            " ORDER BY id",
            topic=topic,
        )
        return [
            Said(
                row.topic,
                bytes(row.key).decode(),
                (dict(unpack_headers(row.headers)).get("ce_id") or b"").decode(),
                json.loads(row.value),
            )
            for row in rows
        ]

    async def until(self, sql: str, **parameters: Any) -> None:
        """Wait until a query's one value is true."""
        async with asyncio.timeout(DEADLINE):
            while not await self.value(sql, **parameters):  # noqa: ASYNC110 (nobody tells us)
                await asyncio.sleep(0.01)

    async def until_blocked(self, sessions: int = 1) -> None:
        """Wait until so many sessions of this database stand before somebody else's lock."""
        await self.until(
            "SELECT count(*) >= :sessions FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'",
            sessions=sessions,
        )
