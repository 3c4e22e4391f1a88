"""What the HTTP API answers.

A generated image keeps the specification's snake_case names; everything else is in camelCase, as
the request and the events are.
"""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from schemas import examples
from schemas.outcomes import Count, Model, Pixels, Provenance, Sha256
from schemas.request import Entity
from schemas.wire import Instant, Usd, WireModel

Progress = Annotated[
    Literal["queued", "deferred", "generating", "uploading"],
    Field(description="deferred: waits for a limit, and goes on by itself."),
]
RequestId = Annotated[UUID, Field(description="Names the request in logs and events, too.")]


class _Answer(WireModel):
    model_config = ConfigDict(extra="ignore", json_schema_serialization_defaults_required=True)


class GeneratedImage(BaseModel):
    """The picture, in the specification's words."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_serialization_defaults_required=True,
        json_schema_extra={"examples": [examples.GENERATED_IMAGE]},
    )

    success: Literal[True] = True
    cached: bool = Field(description="Whether the picture existed, or was being made, already.")
    public_id: str
    url: str
    width: Pixels
    height: Pixels
    format: str = Field(description="webp, png or jpeg.")
    media_asset_id: UUID
    revised_prompt: str | None
    cost: Usd = Field(description="US dollars that this request cost; 0 when cached.")


class Underway(_Answer):
    """The picture is being made; ask for it at `location`."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.UNDERWAY]})

    success: Literal[True] = True
    id: RequestId
    state: Progress
    location: str


class Error(_Answer):
    """What went wrong."""

    code: str = Field(description="A stable word for programs.")
    message: str = Field(description="A sentence that says what to do.")
    details: dict[str, object] | None = Field(None, description="More, by code.")


class Problem(_Answer):
    """Every answer that is no success."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.PROBLEM]})

    success: Literal[False] = False
    error: Error


class RateLimit(_Answer):
    """Whether a picture with default options may be bought now."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    allowed: bool
    reason: str | None = Field(None, description="Only when not allowed.")
    retry_after: int | None = Field(
        description="Whole seconds, rounded up; 0 when allowed, null when waiting cannot help."
    )


class Refused(Problem):
    """A limit has no room, and nothing was queued."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.REFUSED]})

    rate_limit: RateLimit


class FinishedImage(GeneratedImage):
    """A request that has its picture."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.FINISHED_IMAGE]})

    id: RequestId
    state: Literal["ready"] = "ready"


class FailedRequest(Problem):
    """A request that gets no picture."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.FAILED_REQUEST]})

    id: RequestId
    state: Literal["failed"] = "failed"


class Amounts(_Answer):
    """Requests and dollars; null where the limit has no such bound."""

    requests: int | None
    usd: float | None


class LimitStatus(_Answer):
    """One sliding window."""

    name: str
    scope: str = Field(description="global, source:... or type:...")
    window_seconds: int = Field(gt=0)
    used: Amounts
    limit: Amounts
    remaining: Amounts
    frees_at: Instant | None = Field(description="When another picture fits; null: now, or never.")


class Today(_Answer):
    """The calendar day in the configured time zone."""

    count: Count = Field(description="Paid attempts: success + failed.")
    success: Count
    failed: Count
    cost: Usd


class Stats(_Answer):
    today: Today


class Queue(_Answer):
    """Pictures on their way, by state."""

    queued: Count
    generating: Count
    generated: Count = Field(description="Received, and to be uploaded.")
    waits_for: str | None = Field(description="The limit that holds the head of the queue.")
    waits_until: Instant | None
    refused_uploads: Count
    spool_bytes: Count
    unpublished: Count = Field(description="Outcomes that the broker has not acknowledged.")


class Circuit(_Answer):
    """A model that nobody calls now."""

    model: str
    code: str
    message: str
    until: Instant | None = Field(description="Null: until an operator resumes it.")


class ConfiguredModel(_Answer):
    name: str
    shutdown_date: str | None = Field(description="The day on which its provider shuts it down.")


class Status(_Answer):
    """Limits, today's bill and the queue."""

    rate_limit: RateLimit
    stats: Stats
    cached: Count = Field(description="Requests answered for nothing today.")
    saved: Usd = Field(description="US dollars that those would have cost.")
    limits: list[LimitStatus]
    queue: Queue
    provider: list[Circuit] = Field(description="Empty when all is well.")
    model: ConfiguredModel


class Consideration(_Answer):
    """What a request would do (`dryRun`); nothing was changed."""

    success: Literal[True] = True
    dry_run: Literal[True] = True
    hit: bool = Field(description="The picture exists: the request would cost nothing.")
    media_asset_id: UUID | None
    url: str | None
    joins: Literal["queued", "generating", "generated"] | None = Field(
        description="The state of the picture that is being made already."
    )
    context_hash: Sha256
    prompt_hash: Sha256
    hash_version: Count
    prompt: str
    model: Model
    upper_bound: Usd = Field(description="US dollars that a purchase would cost at most.")
    rate_limit: RateLimit


class Image(_Answer):
    """A stored picture."""

    id: UUID
    public_id: str
    url: str
    width: Pixels
    height: Pixels
    format: str
    bytes: Count
    alt: str | None
    title: str | None
    type: str | None = Field(description="What it was asked for: listing, article, ...")
    entity: Entity | None = Field(description="The first that got it.")
    model: Model
    cost: Usd
    revised_prompt: str | None
    context_hash: Sha256
    prompt_hash: Sha256
    sha256: Sha256
    usage_count: Count
    created_at: Instant
    provenance: Provenance = Provenance()


class Images(_Answer):
    """A page of pictures, the newest first."""

    images: list[Image]
    next: str | None = Field(description="The `cursor` of the next page; null on the last.")


class Health(_Answer):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(_Answer):
    """What is not ready, and why."""

    ready: bool
    not_ready: dict[str, str]
    lag: int | None = Field(description="Events not yet taken in; null when unknown.")
