"""The application: routes, guards, and how errors are answered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from pipeline.api import document, generate, images, probes
from pipeline.api.guard import LOOPBACK, Guard
from pipeline.api.parts import Parts
from pipeline.api.problems import ApiProblem
from pipeline.api.reading import ClientGone
from pipeline.database import is_transient
from schemas.problems import field_problems

TITLE = "imagepipe"
VERSION = "1"
DESCRIPTION = (
    "Images on request: each distinct picture is paid for once, limits are never exceeded."
    " Requests join the pictures that events have asked for, and the other way round."
)
ROUTERS: tuple[APIRouter, ...] = (
    generate.router_of_post,
    generate.router,
    images.router,
    probes.router,
)


def create_app(parts: Parts) -> FastAPI:
    """The application of one process. It serves those who wait as long as it runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        waiting = asyncio.create_task(parts.waiters.run())
        try:
            yield
        finally:
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            await parts.close()

    app = _bare(lifespan)
    app.state.parts = parts
    settings = parts.settings
    if settings.media_host == "local":
        app.mount("/media", images.MediaFiles(settings.media_directory), name="media")
    described = document.describe(app, keys=bool(parts.keys))
    app.openapi = lambda: described  # type: ignore[method-assign]
    app.add_route("/openapi.json", lambda _: JSONResponse(described), include_in_schema=False)
    probes.add_docs(app)
    if settings.api_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin.strip() for origin in settings.api_cors_origins.split(",")],
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Prefer"],
            expose_headers=["Location", "Retry-After", "RateLimit", "RateLimit-Policy"],
        )
    app.add_middleware(Guard, hosts=None if parts.keys else LOOPBACK)
    return app


def documented() -> FastAPI:
    """The routes alone, for the document that is kept in schemas/."""
    return _bare(None)


def _bare(lifespan: object) -> FastAPI:
    app = FastAPI(
        title=TITLE,
        version=VERSION,
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,  # type: ignore[arg-type]
        separate_input_output_schemas=False,
        redirect_slashes=False,
    )
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(ApiProblem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(SQLAlchemyError, _database)
    app.add_exception_handler(ClientGone, _gone)
    return app


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiProblem)
    return error.response


async def _invalid(_: Request, error: Exception) -> Response:
    """A parameter of the path, the query or a header."""
    assert isinstance(error, RequestValidationError)
    found = [
        {"field": field.partition(".")[2] or field, "message": message}
        for field, message in field_problems(error.errors())
    ]
    sentence = "; ".join(f"{one['field']}: {one['message']}" for one in found)
    return ApiProblem(422, "invalid_request", sentence, details={"fields": found}).response


async def _http(request: Request, error: Exception) -> Response:
    """What Starlette refuses by itself: no such route, or not with this method."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "_")
    sentence = f"{status.phrase}; the API is described at /docs."
    headers = {"Allow": _allowed(request)} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}
    return ApiProblem(status.value, code, sentence, headers=headers).response


def _allowed(request: Request) -> str:
    """The methods of a path; each of our routes knows one, Starlette tells of the first alone."""
    methods = [
        method
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.path_regex.match(request.url.path)
        for method in route.methods or ()
    ]
    return ", ".join(sorted(methods)) or "GET, HEAD"  # the documentation's pages


async def _database(_: Request, error: Exception) -> Response:
    assert isinstance(error, SQLAlchemyError)
    if not is_transient(error):
        raise error
    return ApiProblem(
        503,
        "database_unavailable",
        "The database is away, or too busy. Try again; with an Idempotency-Key that is safe.",
        headers={"Retry-After": "5"},
    ).response


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)
