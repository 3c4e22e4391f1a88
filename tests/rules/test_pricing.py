"""Money before and after a call, against figures that stand here and not in the catalogue."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ports import Usage
from pipeline.rules.catalogue import NoBound, Status, parse_catalogue
from pipeline.rules.pricing import actual_cost, ceil_to_cents4, upper_bound
from schemas.request import Quality, Size

CATALOGUE_FILE = Path(__file__).parents[2] / "pipeline" / "catalogue.toml"
CATALOGUE = parse_catalogue(CATALOGUE_FILE.read_text(encoding="utf-8"))
FLARE = CATALOGUE.model("gpt-image-2.5-flare")
DALLE = CATALOGUE.model("dall-e-3")

# The exact output tokens of gpt-image-2.5 as the provider counts them, 30 micro-dollars each.
TOKENS = {
    "1024x1024": {"low": 196, "medium": 439, "high": 1756, "xhigh": 3122, "max": 7024},
    "1536x1024": {"low": 159, "medium": 343, "high": 1373, "xhigh": 2459, "max": 5487},
    "1024x1536": {"low": 159, "medium": 343, "high": 1373, "xhigh": 2459, "max": 5487},
}
EXACT = [
    (size, quality, tokens)
    for size, by_quality in TOKENS.items()
    for quality, tokens in by_quality.items()
]

# The dearest that a picture can truly be, in micro-dollars: exact tokens where they are known,
# else a printed price plus the half unit it may have been rounded down by. Sizes without a price
# stand at the larger one that covers them.
DEAREST = {
    "gpt-image-2.5": {
        (Size.SQUARE, Quality.STANDARD): 439 * 30,
        (Size.SQUARE, Quality.HD): 1756 * 30,
        (Size.LANDSCAPE, Quality.STANDARD): 27_500,
        (Size.LANDSCAPE, Quality.HD): 107_500,
        (Size.PORTRAIT, Quality.STANDARD): 27_500,
        (Size.PORTRAIT, Quality.HD): 107_500,
    },
    "gpt-image-2": {
        (Size.SQUARE, Quality.STANDARD): 53_500,
        (Size.SQUARE, Quality.HD): 211_500,
        (Size.LANDSCAPE, Quality.STANDARD): 41_500,
        (Size.LANDSCAPE, Quality.HD): 165_500,
        (Size.PORTRAIT, Quality.STANDARD): 41_500,
        (Size.PORTRAIT, Quality.HD): 165_500,
    },
}


@pytest.mark.parametrize(
    ("size", "quality", "micro_dollars"),
    [
        ("1024x1024", "standard", 40_000),
        ("1024x1024", "hd", 80_000),
        ("1792x1024", "standard", 80_000),
        ("1792x1024", "hd", 120_000),
        ("1024x1792", "standard", 80_000),
        ("1024x1792", "hd", 120_000),
    ],
)
def test_dall_e_3_costs_exactly_its_table(size: str, quality: str, micro_dollars: int) -> None:
    assert upper_bound(DALLE, size, quality, "as long a prompt as you like") == micro_dollars
    assert actual_cost(DALLE, size, quality, None) == micro_dollars
    assert actual_cost(DALLE, size, quality, Usage(100, 0, 9_999)) == micro_dollars


def test_dall_e_3_has_no_price_for_other_pictures() -> None:
    with pytest.raises(NoBound, match="dall-e-3: no published price bounds 1024x1536 at hd"):
        upper_bound(DALLE, "1024x1536", "hd", "")
    with pytest.raises(NoBound):
        upper_bound(DALLE, "1024x1024", "medium", "")


@pytest.mark.parametrize(("size", "quality", "tokens"), EXACT)
def test_the_bound_holds_and_is_close_where_the_tokens_are_known(
    size: str, quality: str, tokens: int
) -> None:
    bound = upper_bound(FLARE, size, quality, "")
    assert tokens * 30 <= bound <= tokens * 30 + 2_000
    assert actual_cost(FLARE, size, quality, Usage(0, 0, tokens)) == tokens * 30


@pytest.mark.parametrize(
    ("size", "quality", "micro_dollars"),
    [
        ("1024x1024", "low", 6_000),  # printed .0059
        ("1024x1024", "medium", 14_000),  # printed .013
        ("1536x1024", "medium", 11_000),  # printed .010, truly 10,290
        ("1792x1024", "high", 108_000),  # 2048x2048 is dearer than 3840x2160
        ("1024x1792", "high", 108_000),
        ("3000x2000", "high", 101_000),  # printed .100; 2048x2048 does not cover it
    ],
)
def test_a_printed_price_counts_one_unit_in_its_last_place_more(
    size: str, quality: str, micro_dollars: int
) -> None:
    assert upper_bound(FLARE, size, quality, "") == micro_dollars


def test_a_size_that_no_listed_one_covers_has_no_bound() -> None:
    with pytest.raises(NoBound, match=r"gpt-image-2\.5-flare: .* 3840x3840 at high"):
        upper_bound(FLARE, "3840x3840", "high", "")


@given(st.text(max_size=200))
def test_a_prompt_counts_one_token_of_5_micro_dollars_a_byte(prompt: str) -> None:
    bound = upper_bound(FLARE, "1024x1024", "medium", prompt)
    assert bound == 14_000 + 5 * len(prompt.encode())


def test_every_usable_live_model_bounds_every_request() -> None:
    usable = [
        model
        for model in map(CATALOGUE.model, CATALOGUE.names)
        if model.status is Status.LIVE and not model.unbounded()
    ]
    assert {model.name for model in usable} == {
        "gpt-image-2",
        "gpt-image-2.5-flare",
        "gpt-image-2.5-sunburst",
    }
    for model in usable:
        dearest = DEAREST[model.name.removesuffix("-flare").removesuffix("-sunburst")]
        for (size, quality), micro_dollars in dearest.items():
            asked = model.call_size(size), model.call_quality(quality)
            assert upper_bound(model, *asked, prompt="") >= micro_dollars


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_tokens_cost_their_rates(text: int, image: int, output: int) -> None:
    usage = Usage(text, image, output)
    assert actual_cost(FLARE, "1024x1024", "medium", usage) == 5 * text + 8 * image + 30 * output


def test_a_cost_is_rounded_up_once_at_the_end() -> None:
    mini = CATALOGUE.model("gpt-image-1-mini")  # 2.50 micro-dollars an image token
    assert actual_cost(mini, "1024x1024", "low", Usage(0, 1, 0)) == 3
    assert actual_cost(mini, "1024x1024", "low", Usage(1, 2, 1)) == 2 + 5 + 8


def test_without_usage_nobody_knows_what_tokens_cost() -> None:
    assert actual_cost(FLARE, "1024x1024", "medium", None) is None


@pytest.mark.parametrize(
    ("micro_dollars", "dollars"),
    [(0, "0.0000"), (1, "0.0001"), (100, "0.0001"), (101, "0.0002"), (120_000, "0.1200")],
)
def test_columns_of_four_decimals_are_rounded_up(micro_dollars: int, dollars: str) -> None:
    assert str(ceil_to_cents4(micro_dollars)) == dollars
    assert ceil_to_cents4(micro_dollars) >= Decimal(micro_dollars) / 1_000_000
