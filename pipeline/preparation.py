"""Everything about a request that needs no I/O: its identity, its hashes, its call, its price."""

from dataclasses import dataclass
from uuid import UUID

from pipeline.messages import request_id
from pipeline.ports import ImageCall
from pipeline.rules.calls import build_call
from pipeline.rules.catalogue import Model
from pipeline.rules.fingerprint import HASH_VERSION, context_hashes, prompt_hash
from pipeline.rules.lifecycle import Source
from pipeline.rules.limits import Purchase
from pipeline.rules.pricing import upper_bound
from schemas.request import ImageRequest


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready to be recorded. `context_hashes`: the current version's first."""

    id: UUID
    event_source: str
    event_id: str
    source: Source
    traceparent: str | None
    request: ImageRequest
    call: ImageCall
    context_hashes: tuple[str, ...]
    prompt_hash: str
    bound_microusd: int

    @property
    def context_hash(self) -> str:
        return self.context_hashes[0]

    @property
    def hash_version(self) -> int:
        return HASH_VERSION

    @property
    def purchase(self) -> Purchase:
        return Purchase(self.source.value, self.request.type.value, self.bound_microusd)


def prepare(
    request: ImageRequest,
    model: Model,
    *,
    event_source: str,
    event_id: str,
    source: Source,
    traceparent: str | None = None,
    output_format: str = "webp",
) -> Prepared:
    """Raises `PromptTooLong` when the model cannot take a custom prompt as it is."""
    call = build_call(request, model, output_format)
    return Prepared(
        id=request_id(event_source, event_id),
        event_source=event_source,
        event_id=event_id,
        source=source,
        traceparent=traceparent,
        request=request,
        call=call,
        context_hashes=context_hashes(request),
        prompt_hash=prompt_hash(call),
        bound_microusd=upper_bound(model, call.size, call.quality, call.prompt),
    )
