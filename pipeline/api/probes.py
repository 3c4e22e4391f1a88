"""What machines ask: alive, ready, metrics; and the documentation page for people."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.responses import FileResponse, HTMLResponse, JSONResponse

from pipeline import metrics
from pipeline.api.document import problems_of
from pipeline.api.parts import Given, Reader, may_read
from schemas import api

router = APIRouter(tags=["operation"])


@router.get(
    "/healthz",
    operation_id="getHealth",
    summary="Alive",
    response_class=JSONResponse,
    responses={200: {"model": api.Health, "description": "The process answers."}},
)
async def healthz() -> Response:
    """Looks at nothing else: a database that is away is no reason to restart this process."""
    return JSONResponse(api.Health().model_dump())


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Ready",
    response_class=JSONResponse,
    responses={
        200: {"model": api.Readiness, "description": "Everything is there and moves."},
        503: {"model": api.Readiness, "description": "Something is not; it is named."},
    },
)
async def readyz(request: Request, given: Given) -> Response:
    """Database, migrations, broker, topics, and whether workers take in the events that wait.
    Anybody may ask; why something is not ready is told to those with a key of scope read."""
    found = await given.readiness.look()
    trusted = may_read(given, request.headers.get("authorization"))
    told = {
        str(part): trouble if trusted else "not ready" for part, trouble in found.troubles.items()
    }
    body = api.Readiness(ready=found.is_ready, not_ready=told, lag=found.lag)
    return JSONResponse(body.model_dump(mode="json"), 200 if found.is_ready else 503)


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {"description": "Prometheus's text format.", "content": {metrics.MEDIA_TYPE: {}}},
        **problems_of(401, 403, 500),
    },
)
async def metrics_page(given: Given, _: Reader) -> Response:
    """See docs/metrics.md."""
    page = await asyncio.to_thread(metrics.page, given.settings.database_url)
    return Response(page, media_type=metrics.MEDIA_TYPE)


_ASSETS = Path(fastapi_offline.__file__).with_name("static")
_DOCS = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>imagepipe API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#api", deepLinking: true});\n'
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)


def add_docs(app: FastAPI) -> None:
    """`/docs`: Swagger UI from this machine alone, no script of anybody else's."""
    app.add_route("/docs", lambda _: _docs(), include_in_schema=False)
    app.add_route(
        "/docs/start.js",
        lambda _: Response(_START, media_type="text/javascript"),
        include_in_schema=False,
    )
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        app.add_route(f"/docs/{name}", _asset(name), include_in_schema=False)


def _docs() -> Response:
    return HTMLResponse(_DOCS, headers={"Content-Security-Policy": _POLICY})


def _asset(name: str) -> Callable[[Request], Response]:
    return lambda _: FileResponse(_ASSETS / name, headers={"Cache-Control": "max-age=86400"})
