"""Connections that can be torn down in the middle, and answers that make use of it."""

import socket
import struct
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_KEY = "sandbox.reset"
_CHUNK = b"A" * 65536
_HUGE_CHUNKS = 4096  # 256 MiB
_LARGE_CHUNKS = 763  # 50 MB


class ResettableProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, which also hands `reset` to the application it serves."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        application = self.app

        async def with_reset(scope: Any, receive: Any, send: Any) -> None:
            scope[_KEY] = self._reset
            await application(scope, receive, send)

        self.app = with_reset

    def _reset(self) -> None:
        """Close with a TCP reset: a linger time of zero discards whatever is still unsent."""
        tcp = self.transport.get_extra_info("socket")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def reset(scope: MutableMapping[str, Any]) -> None:
    """Reset the TCP connection on which this request came."""
    scope[_KEY]()


class HalfAnswer(Response):
    """An answer that promises its whole length, sends one half, and resets the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        body = bytes(self.body)
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        half = body[: len(body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        reset(scope)


def huge_answer(media_type: str) -> Response:
    """A 200 of 256 MiB, which begins like a picture in JSON."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"data":[{"b64_json":"'
        for _ in range(_HUGE_CHUNKS):
            yield _CHUNK

    return StreamingResponse(chunks(), media_type=media_type)


def large_answer() -> Response:
    """A 200 of 50 MB: whole, well-formed JSON, whose base64 is no picture."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"data":[{"b64_json":"'
        for _ in range(_LARGE_CHUNKS):
            yield _CHUNK
        yield b'"}]}'

    return StreamingResponse(chunks(), media_type="application/json")
