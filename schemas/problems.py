"""Why a request was refused, as one sentence a person can act on."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

SHOWN_PROBLEMS = 5
SHOWN_CHARACTERS = 60

_NAMES_ITS_FIELD = re.compile(r"(\w+): (.*)", re.DOTALL)  # what a validator of the whole says


def explain(error: ValidationError) -> str:
    """The problems, each with the field's wire name, in one line.

    At most five are named and values are shortened, so the sentence stays below about 2,000
    characters whatever was sent.
    """
    problems = error.errors(include_url=False)
    shown = "; ".join(_explain_one(problem) for problem in problems[:SHOWN_PROBLEMS])
    hidden = len(problems) - SHOWN_PROBLEMS
    return f"{shown}; and {hidden} more" if hidden > 0 else shown


def field_problems(problems: Iterable[ErrorDetails]) -> Iterator[tuple[str, str]]:
    """Each problem as the field's wire name (empty: the whole) and what is wrong with it."""
    for problem in problems:
        say = _SENTENCES.get(problem["type"])
        reason = say(problem["input"], problem.get("ctx", {})) if say else problem["msg"]
        field = ".".join(_shortened(str(step)) for step in problem["loc"])
        if not field and (named := _NAMES_ITS_FIELD.match(reason)):
            field, reason = named.groups()
        yield field, reason


def _explain_one(problem: ErrorDetails) -> str:
    [(field, reason)] = field_problems([problem])
    return f"{field}: {reason}" if field else reason


def _must_be(kind: str) -> "Sentence":
    return lambda value, _: f"must be {kind}, not {_kind(value)}"


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case dict():
            return "an object"
    return "a list"


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _not_one_of(value: object, ctx: Mapping[str, Any]) -> str:
    allowed = str(ctx["expected"]).replace("'", "").replace(" or ", ", ")
    shown = f"'{_shortened(value)}'" if isinstance(value, str) else _kind(value)
    return f"{shown} is not one of {allowed}"


Sentence = Callable[[Any, Mapping[str, Any]], str]

_SENTENCES: dict[str, Sentence] = {
    "missing": lambda *_: "is required",
    "extra_forbidden": lambda *_: "is not a known field; leave it out",
    "enum": _not_one_of,
    "string_type": _must_be("a string"),
    "bool_type": _must_be("true or false"),
    "dict_type": _must_be("an object"),
    "model_type": _must_be("an object"),
    "tuple_type": _must_be("a list"),
    "string_too_short": lambda *_: "must not be empty",
    "string_too_long": lambda value, ctx: (
        f"has {len(value)} characters; at most {ctx['max_length']} are allowed"
    ),
    "too_long": lambda value, ctx: (
        f"has {len(value)} items; at most {ctx['max_length']} are allowed"
    ),
}
