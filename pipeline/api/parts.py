"""What the routes work with, and who may use them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline.api.keys import NOBODY, ApiKey, Scope, find
from pipeline.api.problems import ApiProblem
from pipeline.api.readiness import Readiness
from pipeline.orders import Orders
from pipeline.rules.catalogue import Model
from pipeline.settings import Settings
from pipeline.waiting import Waiters


@dataclass(frozen=True)
class Parts:
    """Made once per process (`pipeline.wiring.api`).

    Orders may have to wait for the ledger's lock; so hits, those who wait, and what is only looked
    at (`engine`) have connections of their own.
    """

    settings: Settings
    model: Model
    engine: AsyncEngine
    orders: Orders
    waiters: Waiters
    keys: Sequence[ApiKey]
    readiness: Readiness
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def close(self) -> None:
        await self.orders.close()
        await self.waiters.close()
        await self.engine.dispose()


async def parts(request: Request) -> Parts:
    """Like the two below it is a coroutine, or FastAPI would call it in a thread."""
    found: Parts = request.app.state.parts
    return found


Given = Annotated[Parts, Depends(parts)]

BEARER = HTTPBearer(auto_error=False, description="An API key: see `imagepipe api-key`.")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]


def _known(given: Parts, bearer: HTTPAuthorizationCredentials | None, scope: Scope) -> ApiKey:
    """The key that came with a request; raises `ApiProblem` 401 or 403."""
    if not given.keys:
        return NOBODY
    challenge = {"WWW-Authenticate": "Bearer"}
    if bearer is None:
        raise ApiProblem(
            401,
            "unauthorized",
            "Send an API key: Authorization: Bearer KEY.",
            headers=challenge,
        )
    key = find(given.keys, bearer.credentials)
    if key is None:
        raise ApiProblem(401, "unauthorized", "This API key is not known.", headers=challenge)
    if scope not in key.scopes:
        raise ApiProblem(403, "forbidden", f"The API key {key.name!r} has no scope {scope}.")
    return key


async def reader(given: Given, bearer: Bearer) -> ApiKey:
    return _known(given, bearer, Scope.READ)


def may_read(given: Parts, authorization: str | None) -> bool:
    """Whether a request that needs no key came with one that may read, or none is needed."""
    scheme, _, secret = (authorization or "").partition(" ")
    key = find(given.keys, secret) if scheme.lower() == "bearer" else None
    return not given.keys or (key is not None and Scope.READ in key.scopes)


async def generator(given: Given, bearer: Bearer) -> ApiKey:
    return _known(given, bearer, Scope.GENERATE)


Reader = Annotated[ApiKey, Depends(reader)]
Generator = Annotated[ApiKey, Depends(generator)]
