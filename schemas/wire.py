"""How a model looks on the wire: camelCase names, instants in UTC, dollars as exact numbers."""

from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel


class WireModel(BaseModel):
    """A frozen model that refuses unknown names."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        frozen=True,
        extra="forbid",
    )

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """The model of a parsed JSON value, in which only the wire's own names are known.

        Raises pydantic's `ValidationError`; `schemas.problems.explain` turns it into a sentence.
        """
        return cls.model_validate(value, by_alias=True, by_name=False)


def usd(micro: int) -> Decimal:
    """Dollars from integer micro-dollars, exactly and without trailing zeros (120000 is 0.12)."""
    return Decimal(micro) / 1_000_000


Usd = Annotated[
    Decimal,
    Field(
        ge=0,
        description="US dollars, exact to the micro-dollar.",
        json_schema_extra={"minimum": 0},  # pydantic drops `ge` next to a serialiser
    ),
    # A double's shortest form gives back up to 15 digits: exact below a billion dollars.
    PlainSerializer(float, return_type=float, when_used="json"),
]

Instant = Annotated[
    AwareDatetime,
    AfterValidator(lambda instant: instant.astimezone(UTC)),
    Field(description="An RFC 3339 instant in UTC, ending in Z."),
]


@lru_cache(64)  # a batch has one instant
def rfc3339(instant: datetime) -> str:
    """The instant in UTC as `Instant` fields print it ("2026-11-22T10:00:00.5Z" has six digits)."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
