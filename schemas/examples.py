"""One example of each contract in its wire form, shown in the published documents."""

from datetime import UTC, datetime
from uuid import UUID

from pydantic import JsonValue

from schemas.outcomes import (
    Asset,
    BlockingLimit,
    Causation,
    Cost,
    CostIncurred,
    ImageDeferred,
    ImageFailed,
    ImageReady,
    Maximum,
    Model,
    Used,
)
from schemas.request import Entity, EntityType
from schemas.wire import usd

ENTITY_CREATED: dict[str, JsonValue] = {
    "type": "listing",
    "context": {
        "title": "Denize sıfır yazlık",
        "propertyType": "yazlik",
        "location": "Karasu, Sakarya",
        "features": {"balkon": True, "oda": "3+1"},
        "status": "satilik",
    },
    "options": {"size": "1792x1024", "quality": "hd"},
    "upload": {
        "folder": "listings/karasu",
        "entityType": "listing",
        "entityId": "4711",
        "tags": ["karasu", "yazlik"],
    },
}

LISTING: dict[str, JsonValue] = {
    "type": "listing",
    "context": {
        "title": "Modern Daire",
        "propertyType": "daire",
        "location": "Karasu, Sakarya",
        "status": "satilik",
    },
    "options": {"size": "1792x1024", "quality": "hd"},
    "upload": {
        "entityType": "listing",
        "entityId": "listing-id",
        "alt": "Modern Daire - Karasu",
    },
}

GENERATE_IMAGE: dict[str, JsonValue] = {
    "type": "hero",
    "context": {"title": "Karasu'da yaşam", "theme": "sonbahar", "mood": "calm"},
}

_ENTITY = Entity(type=EntityType.LISTING, id="4711")
_CAUSATION = Causation(source="https://cms.example/listings", id="evt-4711-1")
_REQUEST_ID = UUID("6e9e2f0e-7c39-5d7c-9a0a-52f9a3f6c7d1")
_CONTEXT_HASH = "8d1f" * 16
_PROMPT_HASH = "c40b" * 16

IMAGE_READY: dict[str, JsonValue] = ImageReady(
    request_id=_REQUEST_ID,
    sequence=42,
    entity=_ENTITY,
    cached=False,
    asset=Asset(
        media_asset_id=UUID("0b8f6a52-9f0e-4c3e-8a53-3d6f5b0c1e77"),
        public_id="imagepipe/3f2a-9c41d0",
        url="https://media.example/imagepipe/3f2a-9c41d0.webp",
        width=1792,
        height=1024,
        format="webp",
        bytes=204_800,
        sha256="9c41" * 16,
    ),
    alt="Denize sıfır yazlık",
    context_hash=_CONTEXT_HASH,
    prompt_hash=_PROMPT_HASH,
    hash_version=1,
    model=Model(name="dall-e-3", size="1792x1024", quality="hd"),
    revised_prompt=None,
    cost=Cost(usd=usd(120_000), basis="actual"),
    causation=_CAUSATION,
    occurred_at=datetime(2026, 11, 22, 10, 0, 30, tzinfo=UTC),
).model_dump(mode="json")

IMAGE_FAILED: dict[str, JsonValue] = ImageFailed(
    request_id=_REQUEST_ID,
    sequence=42,
    entity=_ENTITY,
    error_class="policy",
    code="policy",
    message="The image model refused the subject.",
    attempts=1,
    cost_incurred=CostIncurred(usd=usd(0)),
    context_hash=_CONTEXT_HASH,
    prompt_hash=_PROMPT_HASH,
    causation=_CAUSATION,
    occurred_at=datetime(2026, 11, 22, 10, 0, 30, tzinfo=UTC),
).model_dump(mode="json")

IMAGE_DEFERRED: dict[str, JsonValue] = ImageDeferred(
    request_id=_REQUEST_ID,
    sequence=42,
    entity=_ENTITY,
    limit=BlockingLimit(name="hourly", scope="global", window_seconds=3_600),
    used=Used(requests=20, usd=usd(1_060_000)),
    maximum=Maximum(requests=20, usd=None),
    retry_at=datetime(2026, 11, 22, 10, 41, 7, tzinfo=UTC),
    causation=_CAUSATION,
    occurred_at=datetime(2026, 11, 22, 10, 0, 30, tzinfo=UTC),
).model_dump(mode="json")

GENERATED_IMAGE: dict[str, JsonValue] = {
    "success": True,
    "cached": False,
    "public_id": "imagepipe-012c6c8d-f967011d6144",
    "url": "https://media.example/imagepipe-012c6c8d-f967011d6144.webp",
    "width": 1792,
    "height": 1024,
    "format": "webp",
    "media_asset_id": "0b8f6a52-9f0e-4c3e-8a53-3d6f5b0c1e77",
    "revised_prompt": None,
    "cost": 0.12,
}

FINISHED_IMAGE: dict[str, JsonValue] = {
    **GENERATED_IMAGE,
    "id": str(_REQUEST_ID),
    "state": "ready",
}

UNDERWAY: dict[str, JsonValue] = {
    "success": True,
    "id": str(_REQUEST_ID),
    "state": "generating",
    "location": f"/api/ai/generate-image/{_REQUEST_ID}",
}

PROBLEM: dict[str, JsonValue] = {
    "success": False,
    "error": {
        "code": "invalid_request",
        "message": "options.size: '1x1' is not one of 1024x1024, 1792x1024, 1024x1792",
        "details": {
            "fields": [
                {
                    "field": "options.size",
                    "message": "'1x1' is not one of 1024x1024, 1792x1024, 1024x1792",
                }
            ]
        },
    },
}

_NO_ROOM = "The limit hour (20 requests per 1h) has no room for 0:36:51."

REFUSED: dict[str, JsonValue] = {
    "success": False,
    "error": {
        "code": "rate_limited",
        "message": f"{_NO_ROOM} Try again later, or send Prefer: respond-async to wait in the"
        " queue.",
        "details": {"limits": ["hour"]},
    },
    "rateLimit": {"allowed": False, "reason": _NO_ROOM, "retryAfter": 2211},
}

FAILED_REQUEST: dict[str, JsonValue] = {
    "success": False,
    "error": {
        "code": "policy",
        "message": "The safety system refuses this prompt.",
        "details": {"errorClass": "policy", "provider": "moderation_blocked"},
    },
    "id": str(_REQUEST_ID),
    "state": "failed",
}
