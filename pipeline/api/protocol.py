"""HTTP/1.1 with bounds: how long a request's first line and headers may be, and may take.

Neither uvicorn nor the parser below it has any. Besides, an answer leaves in one piece.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 32 * 1024  # bytes, first line and headers together
HEAD_WITHIN = 10.0  # seconds from the first byte of a connection, or of its next request


def _last_answer(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()


_TOO_LARGE = _last_answer("431 Request Header Fields Too Large")
_TOO_SLOW = _last_answer("408 Request Timeout")


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's own protocol, which closes what is too large or too slow to become a request."""

    _head_bytes = 0
    _reading_head = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Whole(transport, self.loop))  # type: ignore[arg-type]
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._reading_head:
            self._head_bytes += len(data)
            if self._timer is None and not self._answering:
                self._expect_head()
        super().data_received(data)
        if self._reading_head and self._head_bytes > LONGEST_HEAD:
            self._refuse(_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading_head:
            super().on_header(name, value)
            return
        self._head_bytes += len(name) + len(value)  # a trailer after the body: nobody reads it
        if self._head_bytes > LONGEST_HEAD:
            self._refuse(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._reading_head, self._head_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading_head, self._head_bytes = True, 0

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._head_bytes and self._timer is None:  # the next request has begun to come
            self._expect_head()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_WITHIN, self._refuse, _TOO_SLOW)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, answer: bytes) -> None:
        self._stop_timer()
        transport: Any = self.transport
        if not transport.is_closing():
            if not self._answering:
                transport.write(answer)
            transport.close()


class _Whole:
    """A transport that sends an answer's head together with its body, which uvicorn writes one
    after the other: uvloop would make two system calls of it, and wake the client twice."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        else:
            self._held = data
            self._loop.call_soon(self._send)  # at the latest

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)
