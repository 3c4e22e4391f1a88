"""The OpenAPI 3.1 document, from the models that answer; `python -m pipeline.api.document` writes
it to schemas/openapi.json."""

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from schemas import api, examples
from schemas.documents import DIRECTORY, with_values
from schemas.request import ImageRequest

PATH = DIRECTORY / "openapi.json"

_REF = "#/components/schemas/{model}"

REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": _REF.format(model=ImageRequest.__name__)},
                "examples": {
                    "listing": {"summary": "A listing", "value": examples.LISTING},
                    "hero": {"summary": "A hero image", "value": examples.GENERATE_IMAGE},
                },
            }
        },
    }
}

_PROBLEMS = {
    400: "The body is not JSON, or holds what cannot be kept.",
    401: "No API key, or an unknown one.",
    403: "The API key has not this scope.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "A newer request, or an operator, ended this one.",
    410: "The CMS has deleted the picture.",
    413: "The body is over 64 KiB.",
    415: "The body is not called JSON.",
    422: "A field is not what it should be, or the model refuses the subject (code policy).",
    500: "Something is wrong with imagepipe itself.",
    502: "The image model refused the request.",
    503: "The image model, the database or the broker is away.",
    504: "The image model did not answer; the outcome is unknown.",
}


def problems_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of answers that are no success."""
    return {status: {"model": api.Problem, "description": _PROBLEMS[status]} for status in statuses}


def link(operation: str, id_: str) -> dict[str, Any]:
    """Where an answer's id may be used."""
    return {operation: {"operationId": operation, "parameters": {"id": id_}}}


def describe(app: FastAPI, *, keys: bool) -> dict[str, Any]:
    """The document of an application; without API keys there is no security to speak of."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        openapi_version="3.1.0",
    )
    schemas = document["components"]["schemas"]
    body = with_values(ImageRequest.model_json_schema(ref_template=_REF), _REF)
    schemas |= body.pop("$defs") | {ImageRequest.__name__: body}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if not keys:
        document["components"].pop("securitySchemes", None)
        for path in document["paths"].values():
            for operation in path.values():
                operation.pop("security", None)
    return document


def text() -> str:
    """What the file has to hold."""
    # The application needs this module for its routes.
    from pipeline.api.app import documented  # noqa: PLC0415

    document = describe(documented(), keys=True)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), "utf-8")
