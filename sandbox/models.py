"""What each image model takes and what it reports, as the sandbox's OpenAI side enforces it.

The figures are OpenAI's published ones as of 2026-11-22. They are written down here a second time
on purpose, so that the pipeline's catalogue can be tested against them.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.drawing import FORMATS
from sandbox.wire_errors import OpenAIError, Refused

_THREE = ("1024x1024", "1536x1024", "1024x1536")
_FIVE_QUALITIES = ("low", "medium", "high", "xhigh", "max")
_THREE_QUALITIES = _FIVE_QUALITIES[:3]

_PARAMETERS = frozenset({"model", "prompt", "n", "size", "quality", "user"})
_GPT_PARAMETERS = _PARAMETERS | {
    "output_format",
    "output_compression",
    "background",
    "moderation",
}
_DALL_E_PARAMETERS = _PARAMETERS | {"style", "response_format"}

_TOKENS_2_5 = {
    (1024, 1024): (196, 439, 1756, 3122, 7024),
    (1536, 1024): (159, 343, 1373, 2459, 5487),
    (1024, 1536): (159, 343, 1373, 2459, 5487),
}
# Dollars per picture, low to max.
_PRICES_2 = {
    (1024, 1024): (0.006, 0.053, 0.211),
    (1536, 1024): (0.005, 0.041, 0.165),
    (1024, 1536): (0.005, 0.041, 0.165),
}
_PRICES_2_5 = {
    (2048, 2048): (0.012, 0.027, 0.107, 0.190, 0.428),
    (3840, 2160): (0.011, 0.026, 0.100, 0.178, 0.400),
    (2160, 3840): (0.011, 0.026, 0.100, 0.178, 0.400),
}
_PRICES_2_6 = {(1024, 1024): (0.020, 0.041, 0.053, 0.094, 0.211)}
_PRICES_1_5 = {(1024, 1024): (0.009, 0.034, 0.133)}
_PRICES_1_MINI = {(1024, 1024): (0.005, 0.011, 0.036)}

_Figures = Mapping[tuple[int, int], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Model:
    """One model: `sizes` None means any size by the rule, `tokens` are exact counts."""

    qualities: tuple[str, ...]
    sizes: tuple[str, ...] | None
    prompt_limit: int = 32_000  # characters
    shutdown_date: str | None = None
    prices: _Figures | None = None  # dollars
    tokens: _Figures | None = None
    dollars_per_million: float = 30.0  # image output tokens

    @property
    def is_gpt(self) -> bool:
        """Whether it is a GPT image model: b64_json, usage, no style."""
        return self.prices is not None


_GPT_2_5 = Model(_FIVE_QUALITIES, None, prices=_PRICES_2_5, tokens=_TOKENS_2_5)
_GPT_2_6 = Model(_FIVE_QUALITIES, None, prices=_PRICES_2_6)
_GPT_1_5 = Model(
    _THREE_QUALITIES, _THREE, shutdown_date="2026-12-01", prices=_PRICES_1_5, dollars_per_million=32
)
MODELS: Mapping[str, Model] = {
    "gpt-image-2": Model(_THREE_QUALITIES, None, prices=_PRICES_2),
    "gpt-image-2.5-flare": _GPT_2_5,
    "gpt-image-2.5-sunburst": _GPT_2_5,
    "gpt-image-2.6-flare": _GPT_2_6,
    "gpt-image-2.6-sunburst": _GPT_2_6,
    "gpt-image-1.5": _GPT_1_5,
    "chatgpt-image-latest": _GPT_1_5,
    "gpt-image-1-mini": Model(
        _THREE_QUALITIES,
        _THREE,
        shutdown_date="2026-12-01",
        prices=_PRICES_1_MINI,
        dollars_per_million=8,
    ),
    "dall-e-3": Model(
        ("standard", "hd"), ("1024x1024", "1792x1024", "1024x1792"), prompt_limit=4_000
    ),
}


@dataclass(frozen=True, slots=True)
class Order:
    """A valid request, its defaults filled in. `style` is None for GPT image models."""

    name: str
    prompt: str
    width: int
    height: int
    quality: str
    output_format: str
    style: str | None
    by_url: bool

    @property
    def size(self) -> str:
        """The size as OpenAI writes it: 1024x1024."""
        return f"{self.width}x{self.height}"


def read_order(body: object) -> Order:
    """Check a request's body as the model it names does; raises `Refused` (400, 404)."""
    if not isinstance(body, dict):
        raise _invalid("body", "The body is no JSON object.")
    name = body.get("model", "dall-e-2")
    model = MODELS.get(name) if isinstance(name, str) else None
    if model is None:
        message = f"The model {name!r} does not exist or is retired."
        error = OpenAIError(404, "invalid_request_error", "model_not_found", message, "model")
        raise Refused(error)
    for parameter in body.keys() - (_GPT_PARAMETERS if model.is_gpt else _DALL_E_PARAMETERS):
        raise _invalid(parameter, f"Unknown parameter: {parameter!r}.", "unknown_parameter")
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not 1 <= len(prompt) <= model.prompt_limit:
        raise _invalid("prompt", f"A prompt has 1 to {model.prompt_limit} characters.")
    if body.get("n", 1) != 1:
        raise _invalid("n", "The sandbox draws one picture per request.")
    width, height = _read_size(model, body.get("size", "1024x1024"))
    formats = FORMATS if model.is_gpt else ("png",)
    responses = ("url", "b64_json")
    return Order(
        name=name,
        prompt=prompt,
        width=width,
        height=height,
        quality=_word(body, "quality", model.qualities, "high" if model.is_gpt else "standard"),
        output_format=_word(body, "output_format", formats, "png"),
        style=None if model.is_gpt else _word(body, "style", ("vivid", "natural"), "vivid"),
        by_url=not model.is_gpt and _word(body, "response_format", responses, "url") == "url",
    )


def usage(order: Order) -> dict[str, Any] | None:
    """The tokens that the answer reports; None for dall-e-3, which reports none.

    Prompts count one token per four characters. Pictures count the exact published tokens where
    there are any, else what the dearest listed price of a size that covers the asked one buys.
    """
    model = MODELS[order.name]
    if not model.is_gpt:
        return None
    text, output = math.ceil(len(order.prompt) / 4), _output_tokens(model, order)
    return {
        "input_tokens": text,
        "input_tokens_details": {"text_tokens": text, "image_tokens": 0},
        "output_tokens": output,
        "total_tokens": text + output,
    }


def _output_tokens(model: Model, order: Order) -> int:
    grade, asked = model.qualities.index(order.quality), (order.width, order.height)
    if model.tokens and asked in model.tokens:
        return int(model.tokens[asked][grade])
    prices = model.prices or {}
    if asked in prices:
        dollars = prices[asked][grade]
    elif covering := [
        row[grade] for (w, h), row in prices.items() if w >= asked[0] and h >= asked[1]
    ]:
        dollars = max(covering)
    else:  # nothing listed is as large: in proportion to the pixels of a 1024x1024
        dollars = prices[next(iter(prices))][grade] * order.width * order.height / 1024**2
    return int(dollars / model.dollars_per_million * 1_000_000)


def _read_size(model: Model, size: object) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{2,5})x(\d{2,5})", size) if isinstance(size, str) else None
    if match is None or (model.sizes is not None and size not in model.sizes):
        raise _invalid("size", f"Invalid size: {size!r}.")
    width, height = int(match[1]), int(match[2])
    if model.sizes is None:
        sixteenths = width % 16 == 0 and height % 16 == 0
        slim = max(width, height) > 3 * min(width, height)
        if not sixteenths or slim or not 655_360 <= width * height <= 8_294_400:
            raise _invalid("size", f"Invalid size: {size!r}.")
    return width, height


def _word(body: Mapping[str, Any], parameter: str, allowed: tuple[str, ...], default: str) -> str:
    value = body.get(parameter, default)
    if value not in allowed:
        raise _invalid(parameter, f"Invalid {parameter}: {value!r}, not one of {allowed}.")
    return str(value)


def _invalid(parameter: str, message: str, code: str = "invalid_value") -> Refused:
    return Refused(OpenAIError(400, "invalid_request_error", code, message, parameter))
