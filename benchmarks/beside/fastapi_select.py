"""A bare FastAPI route that only looks a picture up: the body into a pydantic model, one indexed
SELECT on a connection that commits by itself, and JSON out. It records and counts nothing."""

import hashlib
import json
import os
from typing import Any, Literal

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from pipeline.database import sync_url


class Options(BaseModel):
    size: Literal["1024x1024", "1792x1024", "1024x1792"] = "1024x1024"
    quality: Literal["standard", "hd"] = "standard"
    style: Literal["vivid", "natural"] = "natural"


class Upload(BaseModel):
    entityType: str | None = None
    entityId: str | None = None
    tags: list[str] = []


class Body(BaseModel):
    type: Literal["listing", "article", "neighborhood", "hero"]
    context: dict[str, Any]
    options: Options = Options()
    upload: Upload = Upload()

    @property
    def context_hash(self) -> str:
        asked = [self.type, self.context, self.options.model_dump()]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


FIND = text("""
    SELECT id, cloudinary_public_id, cloudinary_secure_url, width, height, format,
           generation_metadata ->> 'revisedPrompt' AS revised_prompt
    FROM media_assets WHERE ai_generated AND context_hash = :hash
    ORDER BY created_at DESC LIMIT 1
""")

app = FastAPI()
engine = create_async_engine(
    sync_url(os.environ.get("BESIDE_DATABASE", "postgresql:///")),
    isolation_level="AUTOCOMMIT",
    pool_size=10,
    max_overflow=0,
)


@app.post("/api/ai/generate-image")
async def generate_image(body: Body) -> dict[str, Any]:
    async with engine.connect() as connection:
        found = (await connection.execute(FIND, {"hash": body.context_hash})).one_or_none()
    if found is None:
        raise HTTPException(404)
    return {
        "success": True,
        "cached": True,
        "public_id": found.cloudinary_public_id,
        "url": found.cloudinary_secure_url,
        "width": found.width,
        "height": found.height,
        "format": found.format,
        "media_asset_id": str(found.id),
        "revised_prompt": found.revised_prompt,
        "cost": 0,
    }
