"""Reading the `multipart/form-data` body of an upload, without changing a byte of its file."""

import re
from dataclasses import dataclass, field

_BOUNDARY = re.compile(r'boundary="?([^";,]+)"?')
_NAME = re.compile(rb'[; ]name="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Form:
    """The text fields by name, and the bytes of the field `file` (None where there is none)."""

    fields: dict[str, str] = field(default_factory=dict)
    file: bytes | None = None


def read_form(content_type: str, body: bytes) -> Form:
    """Split an upload's body into its fields; raises `ValueError` when it is no such form.

    A list arrives as repeated `name[]` fields and comes back joined with commas.
    """
    boundary = _BOUNDARY.search(content_type)
    if not content_type.startswith("multipart/form-data") or boundary is None:
        raise ValueError("the body is no multipart/form-data")
    fields: dict[str, str] = {}
    file: bytes | None = None
    # Every part stands between "\r\n--boundary\r\n" and the next "\r\n--boundary".
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())[1:-1]:
        head, separator, content = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if not separator or name is None:
            raise ValueError("a part of the form has no name")
        key = name[1].decode()
        if key == "file":
            file = content
        elif key.endswith("[]"):
            key = key.removesuffix("[]")
            fields[key] = f"{fields[key]},{content.decode()}" if key in fields else content.decode()
        else:
            fields[key] = content.decode()
    return Form(fields, file)
