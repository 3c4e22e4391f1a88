"""The specification's two endpoints: POST buys a picture or finds it, GET tells of limits."""

import asyncio
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Header, Query, Request
from fastapi.routing import APIRoute
from pydantic_core import to_json
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from pipeline import metrics, reports, status
from pipeline.api import answers
from pipeline.api.document import REQUEST_BODY, link, problems_of
from pipeline.api.parts import BEARER, Generator, Given, Parts, Reader, generator
from pipeline.api.problems import ApiProblem, model_away
from pipeline.api.reading import ClientGone, Preferences, read_body
from pipeline.idempotency import Key, KeyReused, SavedAnswer
from pipeline.ledger import now as ledger_now
from pipeline.orders import ModelAway, OverLimit
from pipeline.preparation import Prepared
from pipeline.results import Result
from pipeline.rules.calls import PromptTooLong
from pipeline.rules.lifecycle import RequestState, Source
from schemas import api

log = structlog.get_logger()


class ReadByHand(APIRoute):
    """`generate`'s route. FastAPI's way of finding its six arguments takes a third of a hit's time,
    so a request without a query, of which only headers are left to be read, is read here."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST" or scope["query_string"]:
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        given: Parts = request.app.state.parts
        response = await generate(
            request,
            given,
            await generator(given, await BEARER(request)),
            prefer=request.headers.get("prefer"),
            idempotency_key=request.headers.get("idempotency-key"),
        )
        await response(scope, receive, send)


router_of_post = APIRouter(tags=["images on request"], route_class=ReadByHand)
router = APIRouter(tags=["images on request"])

DryRun = Annotated[
    bool, Query(alias="dryRun", description="Only say what the request would do; nothing changes.")
]
Prefer = Annotated[
    str | None,
    Header(
        description="respond-async: answer 202 at once, and wait for a limit if need be;"
        " wait=SECONDS: answer 202 after so long (RFC 7240).",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same key with the same body gets the same answer, for 24 hours.",
    ),
]


@router_of_post.post(
    answers.PATH,
    operation_id="generateImage",
    summary="Generate an image, or find it",
    openapi_extra=REQUEST_BODY,
    response_class=JSONResponse,
    responses={
        200: {"model": api.GeneratedImage | api.Consideration, "description": "The picture."},
        202: {
            "model": api.Underway,
            "description": "It is being made, or waits for a limit.",
            "links": link("getResult", "$response.body#/id"),
        },
        429: {"model": api.Refused, "description": "A limit has no room; nothing was queued."},
        **problems_of(400, 401, 403, 408, 409, 410, 413, 415, 422, 500, 502, 503, 504),
    },
)
async def generate(
    request: Request,
    given: Given,
    key: Generator,
    *,
    dry_run: DryRun = False,
    prefer: Prefer = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Waits for the picture. A hit costs nothing and touches no limit; a miss is bought, if every
    limit has room, and refused with 429 otherwise: nothing is queued unless asked for with
    `Prefer: respond-async`. When the wait runs out the answer is 202, and the work goes on."""
    body = await read_body(request)
    try:
        prepared = given.orders.prepare(body.request, request.scope["traceparent"])
    except PromptTooLong as error:
        raise ApiProblem(422, "prompt_too_long", str(error)) from None
    structlog.contextvars.bind_contextvars(job=str(prepared.id))
    if dry_run:
        return answers.considered(await given.orders.consider(prepared))
    keyed = body.key(key.name, idempotency_key)
    wants = Preferences.parse(prefer)
    placed = await _place(given, prepared, park=wants.respond_async, key=keyed)
    if isinstance(placed, SavedAnswer):
        return JSONResponse(placed.body, placed.status)
    result = placed
    if result.state is RequestState.WAITING:
        if wants.respond_async:
            return answers.underway(result)
        found = await _wait(request, given, result, wants.wait)
        if found is None:
            return answers.underway(result)
        result = found
    return await _answer(given, keyed, result)


async def _place(
    given: Parts, prepared: Prepared, *, park: bool, key: Key | None
) -> Result | SavedAnswer:
    try:
        placed = await given.orders.place(prepared, park=park, key=key)
    except OverLimit as over:
        async with given.engine.connect() as connection:
            now = await ledger_now(connection)
            limits = await reports.limits(connection, now, prepared.bound_microusd)
        raise answers.refused(over.decision, limits, now) from None
    except ModelAway as away:
        async with given.engine.connect() as connection:
            now = await ledger_now(connection)
        seconds = (away.until - now).total_seconds() if away.until else None
        raise model_away(away, seconds) from None
    except KeyReused:
        raise ApiProblem(
            422,
            "idempotency_key_reused",
            "Idempotency-Key: this key came with another body before; take a new one.",
        ) from None
    if isinstance(placed, Result) and placed.asset and placed.cached:
        metrics.count_hits(Source.API, 1, placed.asset.cost_microusd)
    return placed


async def _wait(
    request: Request, given: Parts, result: Result, at_most: float | None
) -> Result | None:
    """The finished result; None when the wait ran out, or this process is being stopped. Raises
    `ClientGone`: what has started goes on then, the rest is released."""
    seconds = given.settings.api_wait
    if at_most is not None:
        seconds = min(seconds, at_most)
    with given.waiters.expecting(result.id) as future:
        gone = asyncio.create_task(_disconnected(request))
        stopping = asyncio.create_task(_stopped(given))
        until: set[asyncio.Future[Any]] = {future, gone, stopping}
        try:
            await asyncio.wait(until, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            stopping.cancel()
        if future.done():
            return future.result()
        if gone.done() and not gone.cancelled():
            log.info("the client left before its picture was ready", id=str(result.id))
            raise ClientGone
    try:
        await given.orders.park(result.id)
    except SQLAlchemyError:  # at worst it ends as abandoned, if it has not started yet
        log.warning("a request could not be parked", id=str(result.id), exc_info=True)
    return None


async def _stopped(given: Parts) -> None:
    await given.stopping.wait()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _answer(given: Parts, key: Key | None, result: Result) -> Response:
    """The answer to a finished request; kept with its idempotency key, unless it may pass."""
    code, body = 200, {}
    try:
        body = answers.generated(result)
    except ApiProblem as problem:
        code, body = problem.status, problem.body
    if key is not None and code < 500:
        try:
            await given.orders.save(key, result.id, SavedAnswer(code, body))
        except SQLAlchemyError:  # the request is there, and is what the key stands for
            log.warning("an answer could not be kept with its idempotency key", exc_info=True)
    return Response(to_json(body), code, media_type="application/json")


@router.get(
    answers.PATH,
    operation_id="getLimits",
    summary="Limits, today's bill, and the queue",
    response_class=JSONResponse,
    responses={
        200: {"model": api.Status, "description": "As things stand."},
        **problems_of(401, 403, 422, 500, 503),
    },
)
async def limits_and_statistics(given: Given, _: Reader) -> Response:
    """`allowed` judges a request with default options."""
    async with given.engine.connect() as connection:
        found = await status.read(connection, given.model, days=1, timezone=given.settings.timezone)
    return answers.status(found)


@router.get(
    answers.PATH + "/{id}",
    operation_id="getResult",
    summary="What became of a request",
    response_class=JSONResponse,
    responses={
        200: {
            "model": api.FinishedImage | api.FailedRequest,
            "description": "It is finished: `state` is ready or failed.",
        },
        202: {"model": api.Underway, "description": "It is under way."},
        **problems_of(401, 403, 404, 410, 422, 500, 503),
    },
)
async def result(id: UUID, given: Given, _: Reader) -> Response:
    """Also for requests that came as events: their `requestId`."""
    found = await given.orders.look_up(id)
    if found is None:
        raise ApiProblem(404, "not_found", f"There is no request {id}.")
    return answers.looked_up(found)
