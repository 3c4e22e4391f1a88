"""The published documents, as they have to stand in the files: JSON Schemas and AsyncAPI."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue
from pydantic.json_schema import GenerateJsonSchema

from schemas import examples
from schemas.asyncapi import asyncapi
from schemas.context import value_schemas
from schemas.outcomes import ImageDeferred, ImageFailed, ImageReady
from schemas.request import EntityCreated, ImageRequest
from schemas.wire import WireModel

DIRECTORY = Path(__file__).parent

# What we read is described as we validate it, what we write as we serialise it.
_CONTRACTS: tuple[
    tuple[str, type[WireModel], Literal["validation", "serialization"], dict[str, JsonValue]], ...
] = (
    ("generate-image", ImageRequest, "validation", examples.GENERATE_IMAGE),
    ("entity-created", EntityCreated, "validation", examples.ENTITY_CREATED),
    ("image-ready", ImageReady, "serialization", examples.IMAGE_READY),
    ("image-failed", ImageFailed, "serialization", examples.IMAGE_FAILED),
    ("image-deferred", ImageDeferred, "serialization", examples.IMAGE_DEFERRED),
)


class _WithoutTitles(GenerateJsonSchema):
    """Leaves out the titles that only repeat a property's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def with_values(schema: dict[str, Any], ref: str = "#/$defs/{model}") -> dict[str, Any]:
    """A request's schema that also says what decoding refuses, and that a context has to say
    something; another schema as it is. `ref`: how it refers to its definitions."""
    if "JsonValue" in schema.get("$defs", {}):
        schema["$defs"] |= value_schemas(ref)
        blank = {"additionalProperties": {"$ref": ref.format(model="Blank")}}
        schema["else"]["properties"]["context"]["not"] = blank
    return schema


def published() -> dict[Path, str]:
    """The text of every document by its path below `DIRECTORY`."""
    documents: dict[Path, Mapping[str, Any]] = {
        Path("json", f"{name}.schema.json"): {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **with_values(model.model_json_schema(mode=mode, schema_generator=_WithoutTitles)),
            "examples": [example],
        }
        for name, model, mode, example in _CONTRACTS
    }
    documents[Path("asyncapi.json")] = asyncapi()
    return {
        path: json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        for path, document in documents.items()
    }


def stale() -> list[Path]:
    """Which documents below `DIRECTORY` are missing or differ from what `published` says."""
    return [path for path, text in published().items() if _written(DIRECTORY / path) != text]


def _written(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
