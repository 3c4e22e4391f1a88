"""Reading the body of an image answer: the picture or its address, the usage, the prompt."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.ports import Usage

_MAX_TOKENS = 2**31


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: the picture itself (`data`) or where to fetch it (`url`), never neither."""

    data: bytes | None
    url: str | None
    usage: Usage | None
    revised_prompt: str | None


class _Picture(BaseModel):
    model_config = ConfigDict(val_json_bytes="base64")

    b64_json: bytes | None = None
    url: Any = None
    revised_prompt: Any = None


class _Body(BaseModel):
    data: list[_Picture] = Field(min_length=1)
    usage: Any = None


def read_answer(body: bytes) -> Answer:
    """Read `{data: [{b64_json | url, revised_prompt}], usage}`.

    Raises `ValueError` with one sentence when there is no picture in it. Everything but the
    picture may be missing or wrong, and is then None: it has been paid for.
    """
    try:
        answer = _Body.model_validate_json(body)  # from base64 to bytes with no text in between
    except ValidationError:
        answer = _read_leniently(body)
    picture = answer.data[0]
    url = picture.url if isinstance(picture.url, str) else ""
    if not picture.b64_json and not url.startswith(("http://", "https://")):
        raise ValueError("the answer holds neither a picture nor an http address of one")
    revised = picture.revised_prompt
    return Answer(
        data=picture.b64_json or None,
        url=None if picture.b64_json else url,
        usage=_read_usage(answer.usage),
        revised_prompt=revised if isinstance(revised, str) and revised else None,
    )


def _read_leniently(body: bytes) -> _Body:
    """Whatever Python's own JSON and base64 can make out: the picture is paid for."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the answer is no JSON") from error
    pictures = answer.get("data") if isinstance(answer, dict) else None
    picture = pictures[0] if isinstance(pictures, list) and pictures else None
    if not isinstance(picture, dict):
        raise ValueError("the answer holds no picture")
    encoded, data = picture.get("b64_json"), None
    if isinstance(encoded, str) and encoded:
        try:
            data = base64.b64decode(encoded)  # passes over line breaks
        except binascii.Error as error:
            raise ValueError("the picture is no base64") from error
    found = _Picture(
        b64_json=data, url=picture.get("url"), revised_prompt=picture.get("revised_prompt")
    )
    return _Body(data=[found], usage=answer.get("usage"))


def _read_usage(usage: object) -> Usage | None:
    """The token counts, or None where one is missing or no sane number.

    Without details every input token is text: the pipeline sends no pictures.
    """
    if not isinstance(usage, dict):
        return None
    details = usage.get("input_tokens_details")
    if not isinstance(details, dict):
        details = {"text_tokens": usage.get("input_tokens")}
    text = _tokens(details.get("text_tokens"))
    image = _tokens(details.get("image_tokens", 0))
    output = _tokens(usage.get("output_tokens"))
    if text is None or image is None or output is None:
        return None
    return Usage(text_tokens=text, image_tokens=image, output_tokens=output)


def _tokens(value: Any) -> int | None:
    sane = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS
    return int(value) if sane else None
