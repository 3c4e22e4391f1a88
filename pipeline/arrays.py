"""PostgreSQL's array literals: a column of a batch as one text parameter.

psycopg writes lists element by element in Python, which took a fifth of a worker's time.
"""

from collections.abc import Iterable


def text_array(values: Iterable[str | None]) -> str:
    """The literal of a one-dimensional array of anything that is written as text: to be cast, as
    in `CAST(:names AS text[])`."""
    listed = list(values)
    if not listed:
        return "{}"
    if None not in listed:
        joined = '","'.join(listed)  # type: ignore[arg-type]
        if "\\" not in joined and joined.count('"') == 2 * (len(listed) - 1):
            return f'{{"{joined}"}}'
    return "{" + ",".join(map(_element, listed)) + "}"


def _element(value: str | None) -> str:
    if value is None:
        return "NULL"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
