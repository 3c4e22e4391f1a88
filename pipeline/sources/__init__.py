"""Where entities without a picture come from: files, and the CMS's database.

A source yields what it finds, one entity after the other, in constant memory: an entity that may
need a picture, one that has a real photo, or a line or row that cannot be used, with the reason.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from schemas.request import EntityCreated


class SourceError(Exception):
    """The source cannot be read at all; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An entity that may need a picture. `where`: its line or row."""

    where: str
    request: EntityCreated

    @property
    def key(self) -> str:
        entity = self.request.upload.entity
        assert entity is not None  # an event's request always names one
        return entity.key


@dataclass(frozen=True, slots=True)
class HasPhoto:
    """An entity that has a real photo: it is never given a generated one."""

    where: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """A line or row that cannot be used."""

    where: str
    reason: str


Found = Wanted | HasPhoto | Invalid


class Source(Protocol):
    """`name` is part of the identity of its requests: the same source goes on where it stopped."""

    name: str

    def read(self) -> Iterator[Found]:
        """Everything in the source; raises `SourceError`."""
        ...
