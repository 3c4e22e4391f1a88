"""The outcomes of a request as messages: image-ready, image-failed, image-deferred."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pipeline.assets import StoredAsset
from pipeline.messages import Head, Message, outcome_head, outcome_message
from pipeline.preparation import Prepared
from pipeline.requests import Asker
from pipeline.rules.limits import Limit
from pipeline.rules.retries import ErrorClass
from schemas import outcomes
from schemas.request import Entity, EntityType
from schemas.wire import rfc3339, usd


@dataclass(frozen=True, slots=True)
class Topics:
    """Where everything is published."""

    ready: str
    failed: str
    deferred: str
    dead_letters: str


@dataclass(frozen=True, slots=True)
class Price:
    """What a picture cost the one who asked for it, in micro-dollars."""

    microusd: int
    basis: Literal["estimated", "actual", "cached"]


FREE = Price(0, "cached")

_JSON = json.JSONEncoder(ensure_ascii=False)


def ready(
    topics: Topics,
    asker: Asker,
    asset: StoredAsset,
    price: Price,
    *,
    occurred_at: datetime | None = None,
) -> Message:
    """The picture is there; since now, unless `occurred_at` says otherwise."""
    data = outcomes.ImageReady(
        **_common(asker, occurred_at),
        cached=price.basis == "cached",
        asset=outcomes.Asset(
            media_asset_id=asset.id,
            public_id=asset.public_id,
            url=asset.url,
            width=asset.width,
            height=asset.height,
            format=asset.format,
            bytes=asset.bytes,
            sha256=asset.sha256,
        ),
        alt=asker.alt,
        context_hash=asker.context_hash,
        prompt_hash=asset.prompt_hash,  # of the prompt that the picture was made from
        hash_version=asker.hash_version,
        model=outcomes.Model(name=asset.model, size=asset.size, quality=asset.quality),
        revised_prompt=asset.revised_prompt,
        cost=outcomes.Cost(usd=usd(price.microusd), basis=price.basis),
    )
    return _message(topics.ready, "ready", asker, data, ordinal=1)


def ready_head(prepared: Prepared, occurred_at: datetime) -> Head:
    """Key and headers of the `image-ready` that answers a request from the cache."""
    return outcome_head(
        "ready",
        prepared.request.upload.entity_key or str(prepared.id),
        event_source=prepared.event_source,
        event_id=prepared.event_id,
        ordinal=1,
        occurred_at=occurred_at,
        traceparent=prepared.traceparent,
    )


def ready_without_asset(prepared: Prepared, occurred_at: datetime) -> str:
    """What `image-ready` says of a request that is answered from the cache, as JSON, before its
    sequence number and its asset are known: the rest is added by `pipeline.hits`."""
    upload = prepared.request.upload
    named = upload.entity_key is not None
    said = {
        "requestId": str(prepared.id),
        "entity": {"type": upload.entity_type, "id": upload.entity_id} if named else None,
        "causation": {"source": prepared.event_source, "id": prepared.event_id},
        "occurredAt": rfc3339(occurred_at),
        "cached": True,
        "alt": prepared.alt.text,
        "contextHash": prepared.context_hash,
        "hashVersion": prepared.hash_version,
        "cost": {"usd": 0, "basis": FREE.basis},
        "provenance": {"aiGenerated": True, "digitalSourceType": outcomes.AI_SOURCE_TYPE},
    }
    return _JSON.encode(said)


def failed(
    topics: Topics,
    asker: Asker,
    *,
    error_class: ErrorClass,
    code: str,
    message: str,
    attempts: int,
    microusd: int,
    occurred_at: datetime | None = None,
) -> Message:
    """There will be no picture. `microusd`: what the attempts may have cost."""
    data = outcomes.ImageFailed(
        **_common(asker, occurred_at),
        error_class=error_class,
        code=code,
        message=message,
        attempts=attempts,
        cost_incurred=outcomes.CostIncurred(usd=usd(microusd)),
        context_hash=asker.context_hash,
        prompt_hash=asker.prompt_hash,
    )
    return _message(topics.failed, "failed", asker, data, ordinal=asker.failures + 1)


def deferred(
    topics: Topics, asker: Asker, limit: Limit, totals: tuple[int, int], retry_at: datetime | None
) -> Message:
    """The picture waits. `totals`: requests and micro-dollars in the limit's window."""
    maximum = None if limit.max_microusd is None else usd(limit.max_microusd)
    data = outcomes.ImageDeferred(
        **_common(asker),
        limit=outcomes.BlockingLimit(
            name=limit.name, scope=limit.scope, window_seconds=limit.span_seconds
        ),
        used=outcomes.Used(requests=totals[0], usd=usd(totals[1])),
        maximum=outcomes.Maximum(requests=limit.max_requests, usd=maximum),
        retry_at=retry_at,
    )
    return _message(topics.deferred, "deferred", asker, data, ordinal=asker.deferrals + 1)


def _common(asker: Asker, occurred_at: datetime | None = None) -> dict[str, object]:
    entity = None
    if asker.entity_type and asker.entity_id:
        entity = Entity(type=EntityType(asker.entity_type), id=asker.entity_id)
    return {
        "request_id": asker.id,
        "sequence": asker.sequence,
        "entity": entity,
        "causation": outcomes.Causation(source=asker.event_source, id=asker.event_id),
        "occurred_at": occurred_at or datetime.now(UTC),
    }


def _message(
    topic: str,
    kind: Literal["ready", "failed", "deferred"],
    asker: Asker,
    data: outcomes.Outcome,
    ordinal: int,
) -> Message:
    return outcome_message(topic, kind, data, ordinal=ordinal, traceparent=asker.traceparent)
