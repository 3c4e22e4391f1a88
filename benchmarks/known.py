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
