"""From an HTTP request to a request for a picture, or to the problem with it."""

import asyncio
import hashlib
import re
from dataclasses import dataclass
from typing import Self

import rfc8785
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from pipeline.api.problems import ApiProblem, invalid
from pipeline.events import Undecodable, parse_json
from pipeline.idempotency import Key
from schemas.request import ImageRequest

LONGEST_BODY = 64 * 1024  # bytes
BODY_WITHIN = 10.0  # seconds
LONGEST_KEY = 255  # characters

_KEY = re.compile(rf"[\x21-\x7e]{{1,{LONGEST_KEY}}}")


class ClientGone(Exception):
    """Nobody is there to be answered."""


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON body, and the request for a picture that it holds."""

    value: object
    request: ImageRequest

    def key(self, owner: str, header: str | None) -> Key | None:
        """The idempotency key that came with it; raises `ApiProblem` for a malformed one."""
        if header is None:
            return None
        if not _KEY.fullmatch(header):
            raise ApiProblem(
                422,
                "invalid_request",
                f"Idempotency-Key: must be 1 to {LONGEST_KEY} visible ASCII characters.",
            )
        canonical = rfc8785.dumps(self.value)  # type: ignore[arg-type]
        return Key(owner, header, hashlib.sha256(canonical).hexdigest())


@dataclass(frozen=True, slots=True)
class Preferences:
    """What RFC 7240's Prefer header asks for; what is not understood there is ignored."""

    respond_async: bool
    wait: float | None  # seconds

    @classmethod
    def parse(cls, header: str | None) -> Self:
        respond_async, wait = False, None
        for part in (header or "").split(","):
            name, _, value = part.partition(";")[0].partition("=")
            if name.strip().lower() == "respond-async":
                respond_async = True
            elif name.strip().lower() == "wait" and re.fullmatch(r'\s*"?\d{1,6}"?\s*', value):
                wait = float(value.strip().strip('"'))
        return cls(respond_async, wait)


async def read_body(request: Request) -> Body:
    """The body of a POST; raises `ApiProblem` or `ClientGone`."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiProblem(
            415, "unsupported_media_type", "Send JSON, with Content-Type: application/json."
        )
    raw = await _read(request)
    try:
        value = parse_json(raw)
    except Undecodable as error:
        raise ApiProblem(400, error.code, error.message.replace("The value", "The body")) from None
    try:
        return Body(value, ImageRequest.from_wire(value))
    except ValidationError as error:
        raise invalid(error) from None


async def _read(request: Request) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > LONGEST_BODY:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LONGEST_BODY:
                    raise _too_large()
    except TimeoutError:
        raise ApiProblem(
            408, "body_too_slow", f"The body did not come within {BODY_WITHIN:g} seconds."
        ) from None
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)


def _too_large() -> ApiProblem:
    return ApiProblem(413, "body_too_large", f"The body has over {LONGEST_BODY} bytes.")
