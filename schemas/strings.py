"""The strings of a request: how long they may be and which characters they may hold.

Lengths are in characters (Unicode code points). Patterns are written in what Python's and ECMA's
regular expressions have in common, because the JSON Schemas show them too.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError


def _shaped(pattern: str, otherwise: str) -> tuple[AfterValidator, FieldInfo]:
    """Annotations that make a string match `pattern` and say `otherwise` when it does not."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise PydanticCustomError("string_shape", "{otherwise}", {"otherwise": otherwise})
        return text

    return AfterValidator(check), FieldInfo(json_schema_extra={"pattern": pattern})


_CONTROL = r"\u0000-\u001f\u007f-\u009f"
# Cloudinary refuses ? & # \ % < > + and folders named like a version (v12); file systems refuse
# : * " |. Sixty characters are at most 240 bytes, and the names of files end at 255.
_SEGMENT = r"(?!\s)(?!\.+(?:/|$))(?!v[0-9]+(?:/|$))" + (
    rf'[^/\\?&#%<>+:*"|{_CONTROL}]{{1,60}}(?<!\s)'
)

# Decoding refuses NUL wherever it stands; the schemas say so.
Text = Annotated[str, Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})]
Heading = Annotated[Text, Field(max_length=500)]
Phrase = Annotated[Text, Field(max_length=300)]

Folder = Annotated[
    str,
    Field(max_length=200),
    *_shaped(
        rf"^{_SEGMENT}(?:/{_SEGMENT})*$",
        "must be a relative path such as listings/karasu, of segments of 1 to 60 characters, none "
        'dots only or like v12, without control characters or \\ ? & # % < > + : * " |',
    ),
]

# Part of the Kafka key `entityType:entityId`.
EntityId = Annotated[
    str,
    Field(min_length=1, max_length=200),
    *_shaped(rf"^(?!\s*$)[^{_CONTROL}]+$", "must not be blank or hold control characters"),
]

Tag = Annotated[
    str,
    Field(min_length=1, max_length=100),
    *_shaped(
        rf"^(?!\s*$)[^,{_CONTROL}]+$", "must not be blank or hold commas or control characters"
    ),
]
