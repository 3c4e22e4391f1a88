"""What a picture may cost before the call and what it did cost after, in whole micro-dollars.

A micro-dollar is a millionth of a US dollar. Every rounding goes up, so that money kept back is
never too little and money recorded never less than what was billed.
"""

from decimal import ROUND_CEILING, Decimal

from pipeline.ports import Usage
from pipeline.rules.catalogue import Model


def upper_bound(model: Model, size: str, quality: str, prompt: str) -> int:
    """The most that one call can cost, in micro-dollars: what is reserved before it.

    `size` and `quality` are the model's own words. Exact for a model priced per picture. For one
    billed by tokens: the bound of the picture and a token for every UTF-8 byte of the prompt,
    which is as many as there can be. Raises `NoBound` where no published price bounds the picture.
    """
    picture = model.price_bound(size, quality) * 1_000_000
    if model.rates is None:
        return _ceiling(picture)
    return _ceiling(picture + len(prompt.encode()) * model.rates.text_in)


def actual_cost(model: Model, size: str, quality: str, usage: Usage | None) -> int | None:
    """What one call did cost, in micro-dollars.

    A model billed by tokens costs its usage at the catalogue's rates, one priced per picture what
    its table says, whatever the server counted. None when nobody can know (billed by tokens, and
    the server left `usage` out): the caller keeps what was reserved and calls it an estimate.
    Raises `NoBound` for a picture that a model priced per picture does not list.
    """
    if model.rates is None:
        return upper_bound(model, size, quality, prompt="")
    if usage is None:
        return None
    return _ceiling(
        usage.text_tokens * model.rates.text_in
        + usage.image_tokens * model.rates.image_in
        + usage.output_tokens * model.rates.image_out
    )


def ceil_to_cents4(micro_dollars: int) -> Decimal:
    """US dollars for a numeric(10,4) column, rounded up to the next hundredth of a cent."""
    return Decimal(-(-micro_dollars // 100)).scaleb(-4)


def _ceiling(micro_dollars: Decimal) -> int:
    return int(micro_dollars.to_integral_value(ROUND_CEILING))
