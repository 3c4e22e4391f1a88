"""Entities whose pictures exist already, and databases with a past."""

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from pipeline import wiring
from pipeline.preparation import prepare
from pipeline.rules.lifecycle import Source
from pipeline.settings import load
from schemas.request import EntityCreated

DISTRICTS = ("Merkez", "Yalı", "Aziziye", "Yeni Mahalle", "Kabakoz", "Kurudere")


def data(number: int, contexts: int) -> dict[str, Any]:
    """The request of one listing; every `contexts`-th asks for the same picture."""
    picture = number % contexts
    return {
        "type": "listing",
        "context": {
            "title": f"Denize {picture} Metre Mesafede Satılık Daire",
            "propertyType": "daire",
            "status": "satilik",
            "location": "Karasu, Sakarya",
            "district": DISTRICTS[picture % len(DISTRICTS)],
            "features": {"rooms": "2+1", "balcony": True, "area": 80 + picture % 60},
        },
        "options": {"quality": "standard"},
        "upload": {"entityType": "listing", "entityId": str(number), "tags": ["karasu"]},
    }


PUBLISHED = 100_000
"""Outcomes that stay in the outbox, as `imagepipe prune` leaves the newest there."""

# One picture for each number, asked for again and again in the course of a year. Ids are random,
# like those of real requests; rows stand in the order in which they came.
_PAST = """
    CREATE TEMPORARY TABLE picture AS
    SELECT number, gen_random_uuid() AS job, gen_random_uuid() AS asset,
           format('Denize %%s Metre Mesafede Kiralık Daire', number) AS title,
           encode(sha256(convert_to('context ' || number, 'UTF8')), 'hex') AS context_hash,
           encode(sha256(convert_to('prompt ' || number, 'UTF8')), 'hex') AS prompt_hash
    FROM generate_series(0, %(assets)s - 1) AS number;

    CREATE TEMPORARY TABLE asked AS
    SELECT CASE WHEN turn = 0 THEN job ELSE gen_random_uuid() END AS id, turn, picture.*,
           CAST(1_000_000 + turn * %(assets)s + number AS text) AS entity,
           now() - interval '1 year' * (1 - (turn * %(assets)s + number) / %(requests)s::float8)
               AS at
    FROM generate_series(0, %(requests)s / %(assets)s - 1) AS turn, picture
    ORDER BY turn, number;

    INSERT INTO media_assets
        (id, cloudinary_public_id, cloudinary_url, cloudinary_secure_url, asset_type, entity_type,
         entity_id, width, height, format, bytes, alt_text, alt_text_generated, title, usage_count,
         last_used_at, created_at, updated_at, prompt_hash, context_hash, generation_cost,
         generation_metadata, ai_generated)
    SELECT asset, 'imagepipe-' || job, url, url, 'listing_image', 'listing', entity, 1024, 1024,
           'webp', 180_000, title, true, title, %(requests)s / %(assets)s, at, at, at, prompt_hash,
           context_hash, 0.0133,
           jsonb_build_object(
               'job', job, 'model', 'gpt-image-2.5-flare', 'size', '1024x1024',
               'quality', 'medium', 'prompt', repeat(title || '. ', 10), 'sha256', prompt_hash,
               'costMicroUsd', 13_270, 'costBasis', 'actual', 'trial', false),
           true
    FROM asked, concat('https://res.cloudinary.com/demo/image/upload/v1/', job, '.webp') AS url
    WHERE turn = 0;

    INSERT INTO imagepipe.jobs
        (id, sequence, state, priority, source, type, joinable, context_hash, prompt_hash,
         hash_version, model, prompt, size, quality, output_format, bound_microusd, asset_id,
         due_at, created_at, finished_at)
    SELECT job, number + 1, 'done', 100, 'live', 'listing', true, context_hash, prompt_hash, 1,
           'gpt-image-2.5-flare', repeat(title || '. ', 10), '1024x1024', 'medium', 'webp', 14_000,
           asset, at, at, at
    FROM asked WHERE turn = 0;

    INSERT INTO imagepipe.requests
        (id, event_source, event_id, source, state, type, size, entity_type, entity_id,
         context_hash, prompt_hash, hash_version, alt, alt_generated, data, job_id, asset_id,
         cached, received_at, finished_at)
    SELECT id, 'urn:cms', gen_random_uuid(), 'live', 'ready', 'listing', '1024x1024', 'listing',
           entity, context_hash, prompt_hash, 1, title, true,
           jsonb_build_object(
               'type', 'listing',
               'context', jsonb_build_object(
                   'title', title, 'propertyType', 'daire', 'status', 'kiralik',
                   'location', 'Karasu, Sakarya', 'district', 'Merkez',
                   'features', jsonb_build_object('rooms', '2+1', 'balcony', true, 'area', 80)),
               'options', jsonb_build_object('quality', 'standard'),
               'upload', jsonb_build_object(
                   'entityType', 'listing', 'entityId', entity,
                   'tags', jsonb_build_array('karasu'))),
           CASE WHEN turn = 0 THEN job END, asset, turn > 0, at, at
    FROM asked;

    INSERT INTO imagepipe.entity_images
        (request_id, entity_type, entity_id, asset_id, alt, cached, at)
    SELECT id, 'listing', entity, asset, title, turn > 0, at FROM asked;

    INSERT INTO imagepipe.outbox
        (shard, topic, key, value, headers, request_id, created_at, published_at)
    SELECT shard, 'image-ready', convert_to('listing:' || entity, 'UTF8'),
           convert_to(repeat(title, 25), 'UTF8'), repeat(title, 10), id, at, at
    FROM asked, CAST(number %% 16 AS smallint) AS shard
    WHERE turn * %(assets)s + number >= %(requests)s - %(published)s
    ORDER BY turn, number;

    DROP TABLE asked, picture;
"""


def make_past(database_url: str, requests: int, assets: int) -> None:
    """So many answered requests of a year, and the pictures they share: each bought by the first
    that asked for it, none of them one of `make_known`'s."""
    with psycopg.connect(database_url) as connection:
        psycopg.ClientCursor(connection).execute(
            _PAST, {"requests": requests, "assets": assets, "published": PUBLISHED}
        )
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE")


def make_known(database_url: str, contexts: int) -> None:
    """Pictures for all `contexts`, as bought on an earlier day."""
    model = wiring.chosen_model(load(_env_file=None))
    rows = []
    for number in range(contexts):
        prepared = prepare(
            EntityCreated.from_wire(data(number, contexts)),
            model,
            event_source="urn:benchmark",
            event_id=f"bought-{number}",
            source=Source.LIVE,
        )
        metadata = {
            "job": str(prepared.id),
            "model": prepared.call.model,
            "size": prepared.call.size,
            "quality": prepared.call.quality,
            "sha256": f"{number:064x}",
            "costMicroUsd": 13_270,
            "trial": False,
        }
        url = f"https://res.cloudinary.com/demo/image/upload/v1/benchmark-{number}.webp"
        rows.append(
            (f"benchmark-{number}", url, prepared.prompt_hash, prepared.context_hash, metadata)
        )
    with psycopg.connect(database_url) as connection, connection.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO media_assets
                (cloudinary_public_id, cloudinary_url, cloudinary_secure_url, asset_type, width,
                 height, format, bytes, prompt_hash, context_hash, ai_generated,
                 generation_metadata, usage_count, created_at)
            VALUES (%s, %s, %s, 'listing_image', 1024, 1024, 'webp', 180000, %s, %s, true, %s, 0,
                    now() - interval '1 day')
            """,
            [(name, url, url, p, c, Jsonb(metadata)) for name, url, p, c, metadata in rows],
        )
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE media_assets")
