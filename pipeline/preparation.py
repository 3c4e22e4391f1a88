"""Everything about a request that needs no I/O: its identity, its hashes, its call, its price.

What depends on the words alone, and not on who asks, is remembered: the same listing published
again, a replay, or a hundred entities under one title cost its prompt and its hashes once.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from pipeline.messages import request_id
from pipeline.ports import ImageCall
from pipeline.rules.calls import build_call
from pipeline.rules.catalogue import Model
from pipeline.rules.fingerprint import HASH_VERSION, context_hashes, prompt_hash
from pipeline.rules.lifecycle import Source
from pipeline.rules.limits import Purchase
from pipeline.rules.pricing import upper_bound
from schemas.request import AltText, ImageRequest

REMEMBERED = 2_048
"""Pictures asked for that are remembered, of at most `LONGEST` characters each."""

LONGEST = 4_000


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
    alt: AltText

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
    picture = _picture(request, model, output_format)
    return Prepared(
        id=request_id(event_source, event_id),
        event_source=event_source,
        event_id=event_id,
        source=source,
        traceparent=traceparent,
        request=request,
        call=picture.call,
        context_hashes=picture.context_hashes,
        prompt_hash=picture.prompt_hash,
        bound_microusd=picture.bound_microusd,
        alt=request.alt,
    )


@dataclass(frozen=True, slots=True)
class _Picture:
    """The part of `Prepared` that says what to show and nothing about who asks."""

    call: ImageCall
    context_hashes: tuple[str, ...]
    prompt_hash: str
    bound_microusd: int


class _Words:
    """A request by its words: equal to every other one with the same, for the same model."""

    __slots__ = ("_hash", "_key", "model", "output_format", "request")

    def __init__(self, key: Hashable, request: ImageRequest, model: Model, output_format: str):
        self._key, self._hash = key, hash(key)
        self.request, self.model, self.output_format = request, model, output_format

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Words) and self._key == other._key


def _picture(request: ImageRequest, model: Model, output_format: str) -> _Picture:
    context, options = request.context.model_dump_json(), request.options
    words = (request.type, request.prompt, context, options.size, options.quality, options.style)
    # An id is as good as the model while it lives, and what is remembered keeps it alive.
    asked = _Words((*words, id(model), output_format), request, model, output_format)
    if len(context) + len(request.prompt or "") > LONGEST:
        return _described(asked)
    return _remembered(asked)


def _described(asked: _Words) -> _Picture:
    call = build_call(asked.request, asked.model, asked.output_format)
    return _Picture(
        call=call,
        context_hashes=context_hashes(asked.request),
        prompt_hash=prompt_hash(call),
        bound_microusd=upper_bound(asked.model, call.size, call.quality, call.prompt),
    )


_remembered = lru_cache(REMEMBERED)(_described)
