"""The image models that can be bought from: what they take, what they cost, when they end.

The figures are data (`pipeline/catalogue.toml`, which gives each entry's source and date); this
module says what an entry holds and answers what can be read off it. Whoever starts the program
reads the file: nothing here does I/O.
"""

import tomllib
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from enum import StrEnum
from itertools import product
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from schemas.request import Quality, Size


class CatalogueError(ValueError):
    """The catalogue cannot be read; the message names the entry and what is wrong with it."""


class UnknownModel(ValueError):
    """The catalogue has no such model; the message lists those it has."""


class NoBound(ValueError):
    """No published price bounds this picture's cost, so it is never asked for."""


class Status(StrEnum):
    """Whether the provider still sells a model."""

    LIVE = "live"
    RETIRING = "retiring"  # sold until its shutdown date
    RETIRED = "retired"  # left to compatible servers


def _as_written(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('money is written as text, for example "0.053"')
    return value


Dollars = Annotated[Decimal, BeforeValidator(_as_written), Field(gt=0)]
Pixels = Annotated[str, StringConstraints(pattern=r"^[1-9]\d*x[1-9]\d*$")]


class TokenRates(BaseModel):
    """US dollars per million tokens, which is micro-dollars per token.

    Cached input is cheaper, but an answer does not say which tokens were cached: they count in
    full.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_in: Dollars
    image_in: Dollars
    image_out: Dollars


class Model(BaseModel):
    """One entry of the catalogue.

    `prices` are US dollars per picture by size and quality in the model's own words. They are
    exact where `rates` is None; otherwise they are the provider's rounded examples and the
    tokens decide.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    status: Status
    shutdown_date: date | None = None
    source: str
    max_prompt_characters: int = Field(gt=0)
    takes_style: bool
    takes_output_format: bool
    sizes: Mapping[Size, Pixels]
    qualities: Mapping[Quality, str]
    rates: TokenRates | None = None
    prices: Mapping[Pixels, Mapping[str, Dollars]]

    @model_validator(mode="after")
    def _serves_every_request(self) -> Self:
        missing = [word.value for word in Size if word not in self.sizes]
        missing += [word.value for word in Quality if word not in self.qualities]
        if missing:
            raise ValueError(f"nothing is said about {', '.join(missing)}")
        return self

    def call_size(self, size: Size) -> str:
        """The size to ask this model for, for example 1536x1024 for 1792x1024."""
        return self.sizes[size]

    def call_quality(self, quality: Quality) -> str:
        """The quality in this model's own words, for example medium for standard."""
        return self.qualities[quality]

    def price_bound(self, size: str, quality: str) -> Decimal:
        """The most that one picture can cost, its prompt aside, in US dollars.

        `size` and `quality` are the model's own words. A price billed by tokens is a rounded
        example, so it counts one unit in its last printed place more, and a size without a price
        costs at most what the dearest listed size does that is at least as wide and as high.
        Raises `NoBound` where there is none.
        """
        rows = [self.prices[size]] if size in self.prices else self._rows_covering(size)
        prices = [row[quality] for row in rows if quality in row]
        if not prices:
            raise NoBound(f"{self.name}: no published price bounds {size} at {quality}")
        return max(prices if self.rates is None else map(_one_unit_more, prices))

    def _rows_covering(self, size: str) -> list[Mapping[str, Decimal]]:
        if self.rates is None:
            return []
        width, height = _dimensions(size)
        listed = ((_dimensions(pixels), row) for pixels, row in self.prices.items())
        return [row for (wide, high), row in listed if wide >= width and high >= height]

    def unbounded(self) -> list[tuple[Size, Quality]]:
        """What a request may ask for and this model cannot bound the cost of."""

        def bounded(size: Size, quality: Quality) -> bool:
            try:
                self.price_bound(self.call_size(size), self.call_quality(quality))
            except NoBound:
                return False
            return True

        return [pair for pair in product(Size, Quality) if not bounded(*pair)]

    def require_bounds(self) -> None:
        """Raise `NoBound`, with a sentence for the operator, unless every request is bounded."""
        if unbounded := self.unbounded():
            pictures = ", ".join(f"{size.value} {quality.value}" for size, quality in unbounded)
            raise NoBound(
                f"{self.name} has no published price that bounds {pictures}, so its cost could "
                "not be kept within the limits: choose another model"
            )


class Catalogue:
    """The models by name, in the order of the file."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = dict(models)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that `model` knows."""
        return tuple(self._models)

    def model(self, name: str) -> Model:
        """The entry of that name; raises `UnknownModel` with the names there are."""
        try:
            return self._models[name]
        except KeyError:
            raise UnknownModel(
                f"the catalogue has no model {name!r}; it has {', '.join(self.names)}"
            ) from None


class _Entry(BaseModel):
    """An entry of the file: what it says is true of every model it names."""

    model_config = ConfigDict(extra="allow")

    names: Annotated[list[str], Field(min_length=1)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    models: list[_Entry]


def parse_catalogue(text: str) -> Catalogue:
    """Read the catalogue's TOML.

    Raises `CatalogueError`, naming the entry, for a missing, unknown or malformed figure, money
    that is not text, and a name given twice.
    """
    try:
        entries = _File.model_validate(tomllib.loads(text)).models
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"the catalogue is not TOML: {error}") from error
    except ValidationError as error:
        raise CatalogueError(f"the catalogue: {_first_problem(error)}") from error
    models: dict[str, Model] = {}
    for entry in entries:
        for name in entry.names:
            if name in models:
                raise CatalogueError(f"the catalogue has {name} twice")
            try:
                models[name] = Model.model_validate({**(entry.model_extra or {}), "name": name})
            except ValidationError as error:
                problem = _first_problem(error)
                raise CatalogueError(f"the catalogue's {name}: {problem}") from error
    return Catalogue(models)


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def _one_unit_more(printed: Decimal) -> Decimal:
    """0.053 -> 0.054, 0.0059 -> 0.0060: what a price rounded to so many decimals stays below."""
    return printed + Decimal((0, (1,), int(printed.as_tuple().exponent)))


def _dimensions(size: str) -> tuple[int, int]:
    width, height = size.split("x")
    return int(width), int(height)
