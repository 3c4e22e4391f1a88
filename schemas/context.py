"""What a picture should show: the known keys, any others, and how much of them there may be."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Self

from pydantic import ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from schemas.strings import Heading, Phrase, Text
from schemas.wire import WireModel

CONTEXT_BYTES = 32 * 1024
CONTEXT_KEYS = 200
MAX_NUMBER = 2**53 - 1  # the largest integer that every JSON reader keeps exactly (RFC 7493)


def value_schemas(ref: str) -> dict[str, JsonValue]:
    """What decoding takes for a JSON value, and which values say nothing; `ref` is a template of
    references such as `#/$defs/{model}`. Nesting is bounded as well, which no schema can say."""
    value: JsonValue = {"$ref": ref.format(model="JsonValue")}
    blank: JsonValue = {"$ref": ref.format(model="Blank")}
    text: JsonValue = {"type": "string", "pattern": r"^[^\u0000]*$"}
    return {
        "JsonValue": {
            "description": "Any JSON value without NUL; numbers as far as all readers keep them.",
            "anyOf": [
                {"type": "null"},
                {"type": "boolean"},
                {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER},
                text,
                {"type": "array", "items": value},
                {"type": "object", "additionalProperties": value, "propertyNames": text},
            ],
        },
        "Blank": {
            "description": "A value that says nothing.",
            "anyOf": [
                {"type": "null"},
                {"type": "string", "pattern": r"^\s*$"},
                {"type": "array", "maxItems": 0},
                {"type": "object", "additionalProperties": blank},
            ],
        },
    }


class ListingStatus(StrEnum):
    """For sale, or for rent."""

    SATILIK = "satilik"
    KIRALIK = "kiralik"


class Context(WireModel):
    """What the picture should show. Keys that are not listed here are kept, with any JSON value."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "maxProperties": CONTEXT_KEYS,
            "propertyNames": {"pattern": r"^[^\u0000]*$"},
            "description": "What the picture should show. Other keys are kept, with any value. "
            f"At most {CONTEXT_BYTES:,} bytes as JSON and {CONTEXT_KEYS} keys, nested ones too.",
        },
    )
    __pydantic_extra__: dict[str, JsonValue]

    title: Heading | None = Field(None, description="At most 500 characters.")
    property_type: Phrase | None = Field(None, description="At most 300 characters.")
    location: Phrase | None = Field(None, description="At most 300 characters.")
    features: dict[str, JsonValue] | None = Field(None, description="Any JSON object.")
    status: ListingStatus | None = None
    category: Phrase | None = Field(None, description="At most 300 characters.")
    name: Heading | None = Field(None, description="At most 500 characters.")
    district: Phrase | None = Field(None, description="At most 300 characters.")
    description: Text | None = Field(
        None, max_length=5_000, description="At most 5,000 characters."
    )
    theme: Phrase | None = Field(None, description="At most 300 characters.")

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        size = len(self.model_dump_json(exclude_unset=True).encode())
        if size > CONTEXT_BYTES:
            raise PydanticCustomError(
                "context_bytes",
                "is {size} bytes of JSON; at most {limit} are allowed",
                {"size": size, "limit": CONTEXT_BYTES},
            )
        keys = len(self.model_fields_set) + sum(_keys_below(value) for value in self._open_values())
        if keys > CONTEXT_KEYS:
            raise PydanticCustomError(
                "context_keys",
                "has {keys} keys, nested ones included; at most {limit} are allowed",
                {"keys": keys, "limit": CONTEXT_KEYS},
            )
        return self

    @property
    def is_blank(self) -> bool:
        """Whether nothing is left without nulls, blank strings and empty containers."""
        return all(map(_is_blank, self.__dict__.values())) and _is_blank(self.__pydantic_extra__)

    def _open_values(self) -> Iterator[JsonValue]:
        yield self.features
        yield from self.__pydantic_extra__.values()


def _is_blank(value: JsonValue) -> bool:
    match value:
        case str():
            return not value or value.isspace()
        case dict():
            return all(map(_is_blank, value.values()))
        case list():
            return not value
    return value is None


def _keys_below(value: JsonValue) -> int:
    match value:
        case dict():
            return len(value) + sum(map(_keys_below, value.values()))
        case list():
            return sum(map(_keys_below, value))
    return 0
