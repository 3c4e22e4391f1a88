"""Entities from the CMS's database: one query in a read-only transaction, through a server-side
cursor."""

from collections.abc import Iterator

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import make_url

from pipeline.sources import Found, SourceError
from pipeline.sources.mapping import RowMapping

AT_ONCE = 1000  # rows


class DatabaseSource:
    """One query; every row is an entity."""

    def __init__(self, name: str, database_url: str, query: str, mapping: RowMapping) -> None:
        self.name = name
        self._url = make_url(database_url).set(drivername="postgresql")
        self._query = query
        self._mapping = mapping

    def read(self) -> Iterator[Found]:
        try:
            with psycopg.connect(
                self._url.render_as_string(hide_password=False), connect_timeout=5
            ) as connection:
                connection.read_only = True
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                with connection.cursor(f"imagepipe_{self.name}", row_factory=dict_row) as cursor:
                    cursor.itersize = AT_ONCE
                    cursor.execute(self._query.encode())
                    described = cursor.description or ()
                    columns = {column.name for column in described}
                    self._mapping.require(columns, f"source {self.name}")
                    for number, row in enumerate(cursor, 1):
                        yield self._mapping.found(row, f"{self.name} row {number}")
        except psycopg.OperationalError as error:
            raise SourceError(f"source {self.name}: the database is away: {_line(error)}") from None
        except psycopg.Error as error:
            raise SourceError(f"source {self.name}: {_line(error)}") from None


def _line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())
