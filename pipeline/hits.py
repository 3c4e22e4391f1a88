"""Hits: requests whose picture exists, recorded and answered in one statement.

For a batch of any size it is one round trip: the statement finds and locks the assets, records
the requests, counts the uses, links the entities and writes `image-ready` into the outbox. The
message's part about the request comes from `answers.ready_without_asset`, the part about the
asset is put together here, in `_ASSET_SAID`, and the two objects are joined as text, which costs a
third of joining them as jsonb; a test compares the result with `answers.ready`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import answers, assets, outbox, requests
from pipeline.answers import Topics
from pipeline.arrays import text_array
from pipeline.assets import ASSET, StoredAsset
from pipeline.driver import DriverConnection
from pipeline.messages import pack_headers
from pipeline.preparation import Prepared

_ASSET_SAID = """
    jsonb_build_object(
        'asset', jsonb_build_object(
            'mediaAssetId', found.id, 'publicId', found.public_id, 'url', found.url,
            'width', found.width, 'height', found.height, 'format', found.format,
            'bytes', found.bytes, 'sha256', found.sha256),
        'promptHash', found.prompt_hash,
        'model', jsonb_build_object(
            'name', found.model, 'size', found.size, 'quality', found.quality),
        'revisedPrompt', found.revised_prompt)
"""

_FOLLOWS = """
    (asked.event_source <> :api AND EXISTS (
        SELECT FROM imagepipe.requests earlier
        WHERE earlier.entity_type = asked.entity_type AND earlier.entity_id = asked.entity_id
          AND earlier.state = 'waiting' AND earlier.event_source <> :api))
"""

# A hash of the current version is in `asked`, one of an older version only in `older`. The ids of
# `found` are an array, made once: PostgreSQL would run a subquery of IN again for every row whose
# lock it has waited for.
_STATEMENT = text(f"""
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest(
            {requests.PLACEHOLDERS},
            CAST(:askable AS boolean[]), CAST(:said AS text[]), CAST(:keys AS text[]),
            CAST(:headers AS text[]), CAST(:shards AS smallint[])
        ) WITH ORDINALITY AS asked ({requests.COLUMNS}, askable, said, key, headers, shard, place)
    ), older AS (
        SELECT * FROM unnest(CAST(:older_ids AS uuid[]), CAST(:older_hashes AS text[]))
            WITH ORDINALITY AS older (id, hash, place)
    ), found AS MATERIALIZED (
        SELECT {ASSET} FROM media_assets a
        WHERE a.id = ANY(ARRAY(
            SELECT id FROM media_assets
            WHERE ai_generated AND context_hash = ANY(CAST(:all_context_hashes AS text[]))
            UNION ALL
            SELECT id FROM media_assets
            WHERE ai_generated AND prompt_hash = ANY(CAST(:all_prompt_hashes AS text[]))
        )) AND {assets.USABLE}
        ORDER BY a.id FOR NO KEY UPDATE
    ), matching AS (
        SELECT asked.id, found.id AS asset_id, found.created_at, 0 AS rank
        FROM asked JOIN found USING (context_hash) WHERE asked.askable
        UNION ALL
        SELECT older.id, found.id, found.created_at, older.place
        FROM older JOIN found ON found.context_hash = older.hash
        UNION ALL
        SELECT asked.id, found.id, found.created_at, 1000000
        FROM asked JOIN found USING (prompt_hash) WHERE asked.askable
    ), best AS (
        SELECT DISTINCT ON (id) id, asset_id FROM matching
        ORDER BY id, rank, created_at DESC, asset_id DESC
    ), new AS (
        INSERT INTO imagepipe.requests
            ({requests.COLUMNS}, state, asset_id, cached, finished_at)
        SELECT {requests.COLUMNS_OF_ASKED},
               CASE WHEN asset_id IS NULL THEN 'waiting' ELSE 'ready' END, asset_id,
               CASE WHEN asset_id IS NOT NULL THEN true END,
               CASE WHEN asset_id IS NOT NULL THEN clock_timestamp() END
        FROM asked LEFT JOIN best USING (id)
        WHERE NOT :hits_only OR (asset_id IS NOT NULL AND NOT {_FOLLOWS})
        ORDER BY place
        ON CONFLICT (id) DO NOTHING
        RETURNING id, sequence, asset_id
    ), counted AS (
        UPDATE media_assets a
        SET usage_count = coalesce(a.usage_count, 0) + used.uses, last_used_at = now()
        FROM (SELECT asset_id, CAST(count(*) AS integer) AS uses FROM new
              WHERE asset_id IS NOT NULL GROUP BY asset_id) used
        WHERE a.id = used.asset_id
    ), linked AS (
        INSERT INTO imagepipe.entity_images
            (request_id, entity_type, entity_id, asset_id, alt, cached)
        SELECT new.id, asked.entity_type, asked.entity_id, new.asset_id, asked.alt, true
        FROM new JOIN asked USING (id)
        WHERE new.asset_id IS NOT NULL
          AND asked.entity_type IS NOT NULL AND asked.entity_id IS NOT NULL
        ON CONFLICT DO NOTHING
    ), told AS (
        INSERT INTO imagepipe.outbox (shard, topic, key, value, headers, request_id)
        SELECT asked.shard, :topic, convert_to(asked.key, 'UTF8'),
               convert_to(left(asked.said, -1) || ', "sequence": ' || new.sequence || ', '
                   || substr(CAST({_ASSET_SAID} AS text), 2), 'UTF8'),
               asked.headers, new.id
        FROM new JOIN asked USING (id) JOIN found ON found.id = new.asset_id
        ORDER BY asked.place
    )
    SELECT new.id, new.sequence, {_FOLLOWS} AS follows, found.*
    FROM new JOIN asked USING (id) LEFT JOIN found ON found.id = new.asset_id
""")


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that is new: its sequence number, and its picture if there is one.

    `follows`: it is an event, and an earlier one for the same entity is still waiting.
    """

    sequence: int
    follows: bool
    _asset: Sequence[Any]  # the columns of `ASSET`, or nulls

    @property
    def is_hit(self) -> bool:
        return self._asset[0] is not None

    @property
    def asset(self) -> StoredAsset | None:
        return StoredAsset(*self._asset) if self.is_hit else None

    @property
    def saved_microusd(self) -> int:
        """What the picture had cost, if there is one."""
        return self._asset[-1] if self.is_hit else 0


async def record(
    connection: AsyncConnection | DriverConnection,
    batch: Sequence[Prepared],
    *,
    topics: Topics,
    trial: bool,
    hits_only: bool = False,
) -> dict[UUID, Entry]:
    """Record each request once, by its identity, and answer those whose picture exists.

    Returns the new ones; a request that was known is not among them, and nothing changes for it.
    `hits_only` leaves out whatever one statement cannot settle: requests whose picture is missing,
    and those for whose entity an earlier one waits.
    """
    if not batch:
        return {}
    asked = parameters(batch, topics=topics, trial=trial, hits_only=hits_only)
    return await run(connection, asked)


def parameters(
    batch: Sequence[Prepared], *, topics: Topics, trial: bool, hits_only: bool
) -> dict[str, object]:
    """The part of `record` that needs no connection, for `run`: who records batch after batch makes
    the next one's while PostgreSQL works."""
    now = datetime.now(UTC)
    askable = [p for p in batch if not p.request.skip_cache]
    older = [(str(p.id), hash_) for p in askable for hash_ in p.context_hashes[1:]]
    heads = [answers.ready_head(p, now) for p in batch]
    lists: dict[str, list[str | None]] = {
        "askable": ["f" if p.request.skip_cache else "t" for p in batch],
        "said": [answers.ready_without_asset(p, now) for p in batch],
        "keys": [head.key.decode() for head in heads],
        "headers": [pack_headers(head.headers) for head in heads],
        "shards": [str(outbox.shard_of(head.key)) for head in heads],
        "older_ids": [id_ for id_, _ in older],
        "older_hashes": [hash_ for _, hash_ in older],
        "all_context_hashes": [hash_ for p in askable for hash_ in p.context_hashes],
        "all_prompt_hashes": [p.prompt_hash for p in askable],
    }
    return {
        **requests.columns(batch),
        **{name: text_array(values) for name, values in lists.items()},
        "topic": topics.ready,
        "trial": trial,
        "hits_only": hits_only,
        "api": requests.API,
    }


async def run(
    connection: AsyncConnection | DriverConnection, asked: Mapping[str, object]
) -> dict[UUID, Entry]:
    """`record` what `parameters` were made of."""
    rows = await connection.execute(_STATEMENT, asked)
    return {row[0]: Entry(row[1], row[2], row[3:]) for row in rows}
