"""The pictures that were made, and the files of the local media host."""

import re
from datetime import date
from pathlib import Path
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BeforeValidator
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from pipeline import pictures
from pipeline.api.document import link, problems_of
from pipeline.api.parts import Given, Reader
from pipeline.api.problems import ApiProblem
from pipeline.pictures import CURSOR, MOST_IN_A_PAGE, Cursor, Filter
from schemas import api
from schemas.request import EntityType, ImageType

PATH = "/api/ai/images"
FOREVER = "public, max-age=31536000, immutable"  # a file's name holds the hash of its bytes

router = APIRouter(tags=["images"])


def _written_as_a_day(given: object) -> object:
    """Pydantic alone would take seconds since 1970, too."""
    if isinstance(given, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", given):
        raise ValueError("must be a day such as 2026-11-22")
    return given


Day = Annotated[date, BeforeValidator(_written_as_a_day)]

_SERVED = re.compile(r".+\.(webp|png|jpe?g)", re.IGNORECASE)


@router.get(
    PATH,
    operation_id="listImages",
    summary="Pictures, the newest first",
    response_class=JSONResponse,
    responses={
        200: {
            "model": api.Images,
            "description": "A page of them.",
            "links": link("getImage", "$response.body#/images/0/id"),
        },
        **problems_of(401, 403, 422, 500, 503),
    },
)
async def images(
    given: Given,
    _: Reader,
    *,
    entity_type: Annotated[EntityType | None, Query(alias="entityType")] = None,
    entity_id: Annotated[
        str | None,
        Query(alias="entityId", min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"),
    ] = None,
    type: Annotated[ImageType | None, Query()] = None,
    day: Annotated[
        Day | None, Query(description="A calendar day in the configured time zone.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_IN_A_PAGE)] = 20,
    cursor: Annotated[
        str | None, Query(pattern=CURSOR, description="`next` of the page before.")
    ] = None,
) -> Response:
    """By entity: whatever pictures it was given, also those made for another one."""
    wanted = Filter(entity_type, entity_id, type, day, given.settings.timezone)
    async with given.engine.connect() as connection:
        page = await pictures.page(
            connection,
            wanted,
            after=Cursor.parse(cursor) if cursor else None,
            limit=limit,
            trial=given.settings.trial,
        )
    return JSONResponse(page.model_dump(mode="json"))


@router.get(
    PATH + "/{id}",
    operation_id="getImage",
    summary="One picture",
    response_class=JSONResponse,
    responses={
        200: {"model": api.Image, "description": "The picture."},
        **problems_of(401, 403, 404, 422, 500, 503),
    },
)
async def image(id: UUID, given: Given, _: Reader) -> Response:
    """By its media asset's id."""
    async with given.engine.connect() as connection:
        found = await pictures.one(connection, id, trial=given.settings.trial)
    if found is None:
        raise ApiProblem(404, "not_found", f"There is no picture {id}.")
    return JSONResponse(found.model_dump(mode="json"))


class MediaFiles(StaticFiles):
    """The pictures in the local media host's directory, and nothing else that lies there."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory, check_dir=False)

    async def get_response(self, path: str, scope: Scope) -> Response:
        parts = Path(path).parts
        if not _SERVED.fullmatch(path) or any(part.startswith(".") for part in parts):
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = FOREVER
        return response
