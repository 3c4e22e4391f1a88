"""What every request passes: bounds, an id for the logs, security headers, and no stack traces.

A plain ASGI middleware, so that it costs little and sees everything.
"""

import re
import time
from collections.abc import Collection
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline import metrics
from pipeline.api.problems import ApiProblem
from pipeline.events import traceparent_of

log = structlog.get_logger()

LONGEST_TARGET = 4096  # bytes of path and query
MOST_HEADER_BYTES = 16 * 1024
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""Sent with every answer that does not say otherwise."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:]*)(:\d+)?")


class Guard:
    """`hosts`: what the Host header may name; None where anybody may ask (there are keys)."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid4())
        traceparent = traceparent_of(headers.get("traceparent"))
        scope["traceparent"] = traceparent
        trace = {"request_id": request_id} | ({"traceparent": traceparent} if traceparent else {})
        with structlog.contextvars.bound_contextvars(**trace):
            await _Exchange(scope, send, request_id).run(self, receive, headers)

    async def admit(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        """Hand the request on, or refuse it."""
        if problem := self._trouble(scope, headers):
            await problem.response(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _trouble(self, scope: Scope, headers: Headers) -> ApiProblem | None:
        if len(scope["raw_path"]) + len(scope["query_string"]) > LONGEST_TARGET:
            return ApiProblem(
                414, "url_too_long", f"Path and query have over {LONGEST_TARGET} bytes."
            )
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADER_BYTES:
            return ApiProblem(
                431, "headers_too_large", f"The headers have over {MOST_HEADER_BYTES} bytes."
            )
        if self._hosts is not None and _host(headers.get("host", "")) not in self._hosts:
            return ApiProblem(
                403,
                "foreign_host",
                "Without API keys only requests to this machine's own address are answered.",
            )
        return None


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._scope = scope
        self._send = send
        self._request_id = request_id
        self._status: int | None = None
        self._started = time.perf_counter()

    async def run(self, guard: Guard, receive: Receive, headers: Headers) -> None:
        try:
            await guard.admit(self._scope, receive, self.send, headers)
        except Exception:
            log.exception("a request failed")
            if self._status is None:
                problem = ApiProblem(
                    500,
                    "internal_error",
                    "Something is wrong with imagepipe itself; its log knows more under"
                    f" {self._request_id}.",
                )
                await problem.response(self._scope, receive, self.send)
        finally:
            self._note()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            for name, value in SECURITY.items():
                headers.setdefault(name, value)
        await self._send(message)

    def _note(self) -> None:
        found = self._scope.get("route")
        route = getattr(found, "path", "other")  # the pattern, never an id
        status = self._status or 499  # the client left
        metrics.HTTP_REQUESTS.labels(route, str(status)).inc()
        if route not in QUIET_ROUTES:
            log.info(
                "request",
                method=self._scope["method"],
                route=route,
                status=status,
                ms=round((time.perf_counter() - self._started) * 1000, 1),
            )


def _host(header: str) -> str:
    found = _HOST.fullmatch(header)
    return found[1].strip("[]").lower() if found else ""
