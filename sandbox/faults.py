"""Faults on demand: what the sandbox does wrong, for whom, and how many times."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from starlette.requests import Request
from starlette.responses import Response

from sandbox.connection import reset
from sandbox.wire_errors import CLOUDINARY_ERRORS, OPENAI_ERRORS

Target = Literal["openai", "cloudinary", "download"]

_SILENCES = frozenset({"timeout", "reset"})
_BAD_PICTURES = frozenset(
    {
        "reset_mid_body",  # a reset when half of the picture has been sent
        "no_data",  # a 200 with an empty list of pictures
        "wrong_base64",  # a 200 whose picture is no base64
        "not_a_picture",  # a 200 whose base64 is a text
        "html",  # a 200 with an HTML page
        "other_dimensions",  # half of the asked width and height
        "large_body",  # a 200 of 50 MB whose base64 is no picture
        "huge_body",  # a 200 whose body hardly ends
        "no_usage",  # a picture without usage
        "url",  # a picture by url instead of b64_json
    }
)
KINDS: Mapping[Target, frozenset[str]] = {
    "openai": frozenset(OPENAI_ERRORS) | _SILENCES | _BAD_PICTURES,
    "cloudinary": frozenset(CLOUDINARY_ERRORS) | _SILENCES | {"garbage"},
    "download": _SILENCES | {"not_found", "server_error", "huge_body"},
}


@dataclass(frozen=True, slots=True)
class Fault:
    """The next `times` requests to `target` meet `kind`; raises `ValueError` for an unknown kind.

    With `prompt_contains` only requests count whose prompt contains it. `retry_after` is the
    number of seconds that the rate limit answers ask for.
    """

    target: Target
    kind: str
    times: int = 1
    prompt_contains: str | None = None
    retry_after: float = 7.0

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise ValueError(f"target is one of {', '.join(get_args(Target))}: {self.target!r}")
        if self.kind not in KINDS[self.target]:
            known = ", ".join(sorted(KINDS[self.target]))
            raise ValueError(f"a fault of {self.target} is one of {known}: {self.kind!r}")
        if self.times < 1:
            raise ValueError(f"times is at least 1: {self.times}")


class Faults:
    """The faults still to happen, oldest first; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Let this fault happen after those that already wait."""
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        """Forget every fault that has not happened yet."""
        with self._lock:
            self._waiting.clear()

    def take(self, target: Target, prompt: str = "") -> Fault | None:
        """The fault that this request meets, counted down; None where all goes well."""
        with self._lock:
            for place, fault in enumerate(self._waiting):
                if fault.target == target and (fault.prompt_contains or "") in prompt:
                    if fault.times > 1:
                        self._waiting[place] = replace(fault, times=fault.times - 1)
                    else:
                        del self._waiting[place]
                    return fault
        return None


async def keep_silent(fault: Fault, request: Request) -> Response | None:
    """Meet a fault that gives no answer; None for every other kind.

    A timeout lasts until the client leaves, a reset tears the TCP connection down.
    """
    if fault.kind == "timeout":
        await request.body()
        await request.receive()  # after the whole body there is only the disconnect to receive
    elif fault.kind == "reset":
        await request.body()
        reset(request.scope)
    else:
        return None
    return Response()
