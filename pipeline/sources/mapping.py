"""From a row of columns to a request: which column is what."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from pipeline.sources import Found, HasPhoto, Invalid, SourceError, Wanted
from schemas.problems import explain
from schemas.request import EntityCreated, EntityType

REQUEST_TYPES = {"news": "article", "other": "hero"}
"""The request's type by the entity's, where the two words differ."""


@dataclass(frozen=True, slots=True)
class RowMapping:
    """Which columns make a request.

    `entity_type` is a type, or the column that holds it; `context` maps the context's keys to
    columns; an entity for which any of `photos` says something has a photo.
    """

    entity_id: str
    entity_type: str
    context: Mapping[str, str]
    photos: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> set[str]:
        """Every column that has to be there."""
        own = set() if self.entity_type in set(EntityType) else {self.entity_type}
        return {self.entity_id, *self.context.values(), *self.photos, *own}

    def require(self, columns: set[str], where: str) -> None:
        """Raises `SourceError` for a mapping to a column that is not there."""
        if missing := self.columns - columns:
            there = ", ".join(sorted(columns))
            raise SourceError(f"{where}: there is no column {min(missing)!r}; there are {there}")

    def found(self, row: Mapping[str, Any], where: str) -> Found:
        """What a row is."""
        if any(_says_something(row.get(column)) for column in self.photos):
            return HasPhoto(where)
        entity_type = self.entity_type
        if entity_type not in set(EntityType):
            entity_type = str(row.get(self.entity_type))
        data = {
            "type": REQUEST_TYPES.get(entity_type, entity_type),
            "context": {
                key: _open(row[column]) if key == "features" else _plain(row[column])
                for key, column in self.context.items()
                if _says_something(row.get(column))
            },
            "options": dict(self.options),
            "upload": {"entityType": entity_type, "entityId": _id(row.get(self.entity_id))},
        }
        return checked(data, where)


def checked(data: Mapping[str, Any], where: str) -> Found:
    """A request's data, validated."""
    try:
        return Wanted(where, EntityCreated.from_wire(data))
    except ValidationError as error:
        return Invalid(where, explain(error))


def _says_something(value: object) -> bool:
    """Databases and files write "no photo" in many ways."""
    if isinstance(value, str):
        text = value.strip().lower()
        return text not in ("", "null", "false", "0", "[]", "{}")
    return bool(value)


def _id(value: object) -> str | None:
    return None if value is None else str(value)


def _open(value: Any) -> Any:
    """A column that may hold an object as text."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return _plain(value)


def _plain(value: Any) -> Any:
    """A database's value as JSON has it."""
    match value:
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime() | date() | UUID():
            return str(value)
        case str() | int() | float() | dict() | list() | None:
            return value
    return json.loads(json.dumps(value, default=str))
