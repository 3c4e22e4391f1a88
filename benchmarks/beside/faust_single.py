"""The same job done the straightforward way: a Faust agent that answers one event at a time.

Parses and validates with our models, looks the picture up by its hash, records the request,
counts the use and links the entity in one transaction of plain SQL, sends `image-ready`, and waits
until the broker has it before the next event is taken. It only knows hits.
"""

import json
import os
import tempfile
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import faust
import psycopg
from faust.types import StreamT
from psycopg.rows import dict_row

from pipeline.rules.fingerprint import context_hash
from schemas.request import EntityCreated

app = faust.App(
    os.environ["BESIDE_GROUP"],
    broker=f"kafka://{os.environ['BESIDE_BOOTSTRAP']}",
    consumer_auto_offset_reset="earliest",
    topic_allow_declare=False,
    topic_disable_leader=True,
    web_enabled=False,
    datadir=tempfile.gettempdir(),
)
created = app.topic(os.environ["BESIDE_INPUT"], value_type=bytes, value_serializer="raw")
ready = app.topic(os.environ["BESIDE_OUTPUT"], value_type=bytes, value_serializer="raw")

FIND = """
    SELECT id, cloudinary_public_id, cloudinary_secure_url, width, height, format, bytes
    FROM media_assets WHERE ai_generated AND context_hash = %s ORDER BY created_at DESC LIMIT 1
"""
RECORD = """
    INSERT INTO imagepipe.requests
        (id, event_source, event_id, source, state, type, size, entity_type, entity_id,
         context_hash, prompt_hash, hash_version, alt, alt_generated, data, asset_id, cached,
         finished_at)
    VALUES (%s, %s, %s, 'live', 'ready', %s, %s, %s, %s, %s, '', 1, %s, true, %s, %s, true, now())
    ON CONFLICT (id) DO NOTHING RETURNING sequence
"""
COUNT = """
    UPDATE media_assets SET usage_count = coalesce(usage_count, 0) + 1, last_used_at = now()
    WHERE id = %s
"""
LINK = """
    INSERT INTO imagepipe.entity_images (request_id, entity_type, entity_id, asset_id, alt, cached)
    VALUES (%s, %s, %s, %s, %s, true) ON CONFLICT DO NOTHING
"""


@app.agent(created)
async def answer(stream: StreamT[bytes]) -> None:
    database = await psycopg.AsyncConnection.connect(
        os.environ["BESIDE_DATABASE"], row_factory=dict_row
    )
    async for event in stream.events():
        headers = dict(event.headers)
        source, event_id = headers["ce_source"].decode(), headers["ce_id"].decode()
        request = EntityCreated.from_wire(json.loads(event.value))
        found = await record(database, source, event_id, request)
        if found is not None:
            said = json.dumps(found, default=str).encode()
            sent = await ready.send(key=event.key, value=said, headers=event.headers)
            await sent


async def record(
    database: psycopg.AsyncConnection[dict[str, Any]],
    source: str,
    event_id: str,
    request: EntityCreated,
) -> dict[str, Any] | None:
    """Everything a hit leaves behind, in one transaction; None for an event that was known."""
    hash_, id_ = context_hash(request), uuid5(NAMESPACE_URL, f"{source} {event_id}")
    entity_type, entity_id = request.upload.entity_type, request.upload.entity_id
    alt = request.alt.text
    async with database.transaction():
        asset = await (await database.execute(FIND, [hash_])).fetchone()
        assert asset is not None
        values = [id_, source, event_id, request.type, request.size, entity_type, entity_id]
        values += [hash_, alt, request.model_dump_json(exclude_unset=True), asset["id"]]
        recorded = await (await database.execute(RECORD, values)).fetchone()
        if recorded is None:
            return None
        await database.execute(COUNT, [asset["id"]])
        await database.execute(LINK, [id_, entity_type, entity_id, asset["id"], alt])
    return {"requestId": id_, "cached": True, "asset": asset, "contextHash": hash_, **recorded}
