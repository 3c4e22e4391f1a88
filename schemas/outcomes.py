"""The three answers to a request: image-ready, image-failed and image-deferred (all v1).

Within v1 fields are only added, so a reader ignores names it does not know. `sequence` rises in
the order in which requests were accepted: an outcome with a lower one than the last seen for the
same entity is out of date.
"""

from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from schemas.request import Entity
from schemas.wire import Instant, Usd, WireModel

# IPTC's word for a picture made by a trained model alone.
AI_SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 in hexadecimal.")]
Count = Annotated[int, Field(ge=0)]
Pixels = Annotated[int, Field(gt=0, description="Pixels.")]


class _OutcomePart(WireModel):
    model_config = ConfigDict(extra="ignore", json_schema_serialization_defaults_required=True)


class Causation(_OutcomePart):
    """The event that asked for the picture."""

    source: str
    id: str


class Outcome(_OutcomePart):
    """What every outcome says."""

    request_id: UUID
    sequence: Count = Field(description="Rises in the order in which requests were accepted.")
    entity: Entity | None = Field(description="Null for a request that named no entity.")
    causation: Causation
    occurred_at: Instant


class Asset(_OutcomePart):
    """A stored picture."""

    media_asset_id: UUID
    public_id: str
    url: str
    width: Pixels
    height: Pixels
    format: str = Field(description="webp, png or jpeg.")
    bytes: Count
    sha256: Sha256


class Model(_OutcomePart):
    """What drew the picture, and what it was asked for, in the model's own words."""

    name: str
    size: str
    quality: str


class Cost(_OutcomePart):
    """What this request cost; a picture that existed already costs nothing."""

    usd: Usd
    basis: Literal["estimated", "actual", "cached"]


class Provenance(_OutcomePart):
    """That a machine made the picture, in IPTC's vocabulary."""

    ai_generated: Literal[True] = True
    digital_source_type: Literal[
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    ] = AI_SOURCE_TYPE


class ImageReady(Outcome):
    """The picture is there."""

    cached: bool = Field(description="Whether the picture existed already.")
    asset: Asset
    alt: str
    context_hash: Sha256
    prompt_hash: Sha256
    hash_version: Count
    model: Model
    revised_prompt: str | None
    cost: Cost
    provenance: Provenance = Provenance()


class CostIncurred(_OutcomePart):
    """What the tries that led nowhere cost."""

    usd: Usd


class ImageFailed(Outcome):
    """There will be no picture for this request."""

    error_class: Literal["permanent", "policy", "exhausted", "unknown-outcome"] = Field(
        description="permanent: asking again gets the same answer; policy: the model refused the "
        "subject; exhausted: every try failed; unknown-outcome: nobody can say whether it was made."
    )
    code: str = Field(description="A stable word for programs.")
    message: str = Field(description="A sentence for people.")
    attempts: Count
    cost_incurred: CostIncurred
    context_hash: Sha256
    prompt_hash: Sha256 | None = Field(description="Null when no prompt could be made.")


class BlockingLimit(_OutcomePart):
    """The limit that has no room."""

    name: str
    scope: str = Field(description="global, source:... or type:...")
    window_seconds: int = Field(gt=0)


class Used(_OutcomePart):
    """What the window holds now, reservations included."""

    requests: Count
    usd: Usd


class Maximum(_OutcomePart):
    """The most that the window may hold; null where the limit has no such bound."""

    requests: Count | None
    usd: Usd | None


class ImageDeferred(Outcome):
    """The picture waits for a limit; it is made without being asked for again."""

    limit: BlockingLimit
    used: Used
    maximum: Maximum
    retry_at: Instant | None = Field(
        description="When the limit will have room; null when the request can never fit."
    )
