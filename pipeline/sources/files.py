"""Entities from a file: JSON lines or CSV.

A line of JSON is a request's data, a CloudEvent, or a plain row; a plain row, as each of CSV, is
read by a mapping. The standard one fits a CMS's export: `type` and `id` of the entity, `title` or
`name`, and `hasImages`.
"""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from pipeline.events import Record, Undecodable, decode
from pipeline.sources import Found, Invalid, SourceError, Wanted
from pipeline.sources.mapping import RowMapping

KNOWN_CONTEXT = (
    "title",
    "name",
    "propertyType",
    "location",
    "district",
    "category",
    "description",
    "theme",
    "features",
)
STANDARD = RowMapping("id", "type", {key: key for key in KNOWN_CONTEXT}, photos=("hasImages",))


class FileSource:
    """`mapping` is None for the standard one, of which a row may leave columns out."""

    def __init__(self, path: Path, mapping: RowMapping | None = None) -> None:
        self.name = path.name if str(path) != "-" else "stdin"
        self._path = path
        self._mapping = mapping

    def read(self) -> Iterator[Found]:
        with self._open() as file:
            before = self._stamp()
            rows = self._csv(file) if self._path.suffix.lower() == ".csv" else self._lines(file)
            yield from rows
            if self._stamp() != before:
                yield Invalid(str(self._path), "it has changed while it was read: read it again")

    @contextmanager
    def _open(self) -> Iterator[TextIO]:
        if str(self._path) == "-":
            yield sys.stdin
            return
        try:
            file = self._path.open(encoding="utf-8", errors="surrogateescape", newline="")
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from None
        with file:
            yield file

    def _stamp(self) -> tuple[int, int] | None:
        if str(self._path) == "-":
            return None
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size

    def _lines(self, file: TextIO) -> Iterator[Found]:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield self._line(line, f"{self._path}:{number}")

    def _line(self, line: str, where: str) -> Found:
        value = line.strip().encode("utf-8", "surrogateescape")
        try:
            row = json.loads(value)
        except ValueError as error:
            return Invalid(where, f"not JSON: {error}")
        if isinstance(row, dict) and not row.keys() & {"specversion", "upload", "context"}:
            mapping = self._mapping or _standard_for(row)
            try:
                mapping.require(set(row), where)
            except SourceError as error:
                return Invalid(where, str(error).removeprefix(f"{where}: "))
            return mapping.found(row, where)
        try:
            return Wanted(where, decode(Record("", 0, 0, 0, None, value, ())).request)
        except Undecodable as error:
            return Invalid(where, error.message)

    def _csv(self, file: TextIO) -> Iterator[Found]:
        reader = csv.DictReader(file, strict=True)
        columns = set(reader.fieldnames or ())
        mapping = self._mapping or _standard_for(dict.fromkeys(columns))
        mapping.require(columns, f"{self._path}:1")
        while True:
            where = f"{self._path}:{reader.line_num + 1}"
            try:
                row: dict[Any, Any] = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Invalid(where, f"not CSV: {error}")
                continue
            if None in row or None in row.values():
                yield Invalid(where, f"it has not {len(columns)} columns, as the first line has")
                continue
            yield mapping.found(row, where)


def _standard_for(row: dict[str, Any]) -> RowMapping:
    """The standard mapping of the columns that are there; type and id have to be."""
    context = {key: column for key, column in STANDARD.context.items() if column in row}
    photos = tuple(column for column in STANDARD.photos if column in row)
    return replace(STANDARD, context=context, photos=photos)
