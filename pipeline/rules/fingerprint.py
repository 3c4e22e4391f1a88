"""What counts as the same picture: the two hashes by which a request finds one already bought.

`context_hash` says that two requests ask for the same thing, `prompt_hash` that they would send
the image model the same call. Neither looks at who asks: entity, alt text, tags, folder and
skipCache are in no hash, so many entities may share one picture.

A change of what is hashed needs a new version beside the old one, never an edit of it: assets
keep the hash they were stored under, and a release must find them again.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import fields

from pydantic import JsonValue

from pipeline.ports import ImageCall
from pipeline.rules.canonical import canonical
from schemas.request import ImageRequest, ImageType

HASH_VERSION = 1

_CALL = tuple(field.name for field in fields(ImageCall))

_ONE_I = str.maketrans("İIı", "iii")
_DOTTED_I = re.compile("i\u0307+")  # what other languages' lower-casing makes of İ


def canonical_form(request: ImageRequest, version: int = HASH_VERSION) -> bytes:
    """The RFC 8785 JSON that `context_hash` digests. `KeyError` for an unknown version."""
    return canonical(_FORMS[version](request))


def context_hash(request: ImageRequest, version: int = HASH_VERSION) -> str:
    """SHA-256 (64 hex digits) over what the request asks for, after defaults."""
    return hashlib.sha256(canonical_form(request, version)).hexdigest()


def context_hashes(request: ImageRequest) -> tuple[str, ...]:
    """The hash of every version still looked up, the current one first."""
    return tuple(context_hash(request, version) for version in sorted(_FORMS, reverse=True))


def prompt_hash(call: ImageCall) -> str:
    """SHA-256 (64 hex digits) over every parameter that is sent; those left out are not in it."""
    sent = {name: getattr(call, name) for name in _CALL if getattr(call, name) is not None}
    return hashlib.sha256(canonical(sent)).hexdigest()


def _form_1(request: ImageRequest) -> dict[str, JsonValue]:
    subject: dict[str, JsonValue]
    if request.type is ImageType.CUSTOM:
        subject = {"prompt": (request.prompt or "").strip()}
    else:
        context = request.context.model_dump(mode="json", by_alias=True)
        subject = {"context": _normalised(context)}
    return {
        "hashVersion": 1,
        "type": request.type.value,
        "size": request.size.value,
        "quality": request.options.quality.value,
        "style": request.options.style.value,
        **subject,
    }


def _normalised(value: JsonValue) -> JsonValue:
    """Text folded; null, blank and empty members dropped from objects, innermost first.

    Arrays keep their order and every element. Names of members are only brought to NFC: lower
    case could make two of them one.
    """
    match value:
        case str():
            return _folded(value)
        case list():
            return [_normalised(element) for element in value]
        case dict():
            members = ((name, _normalised(member)) for name, member in sorted(value.items()))
            return {
                unicodedata.normalize("NFC", name): member
                for name, member in members
                if not (member is None or member in ("", [], {}))
            }
        case _:
            return value


def _folded(text: str) -> str:
    """NFC, white space collapsed, lower case with İ, I and ı all the one letter i."""
    collapsed = " ".join(unicodedata.normalize("NFC", text).split())
    lowered = _DOTTED_I.sub("i", collapsed.translate(_ONE_I).lower())
    return unicodedata.normalize("NFC", lowered)


_FORMS: Mapping[int, Callable[[ImageRequest], dict[str, JsonValue]]] = {1: _form_1}
