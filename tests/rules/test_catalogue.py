"""The catalogue of models: what it says, and how it refuses what it cannot read or bound."""

from datetime import date
from pathlib import Path

import pytest

from pipeline.rules.catalogue import (
    CatalogueError,
    NoBound,
    Status,
    UnknownModel,
    parse_catalogue,
)
from schemas.request import Quality, Size

CATALOGUE_FILE = Path(__file__).parents[2] / "pipeline" / "catalogue.toml"
CATALOGUE = parse_catalogue(CATALOGUE_FILE.read_text(encoding="utf-8"))
SMALL = """
[[models]]
names = ["tiny"]
status = "live"
source = "a test, today"
max_prompt_characters = 4000
takes_style = false
takes_output_format = true
sizes = { 1024x1024 = "1024x1024", 1792x1024 = "1536x1024", 1024x1792 = "1024x1536" }
qualities = { standard = "medium", hd = "high" }
rates = { text_in = "5.00", image_in = "8.00", image_out = "30.00" }
prices.2048x2048 = { medium = "0.02", high = "0.100" }
"""


def test_an_unknown_model_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UnknownModel, match=r"'dall-e-4'.*gpt-image-2\.5-flare, .*dall-e-3"):
        CATALOGUE.model("dall-e-4")


@pytest.mark.parametrize(
    ("name", "status", "shutdown_date"),
    [
        ("gpt-image-2.5-flare", Status.LIVE, None),
        ("gpt-image-2", Status.LIVE, None),
        ("gpt-image-1.5", Status.RETIRING, date(2026, 12, 1)),
        ("gpt-image-1-mini", Status.RETIRING, date(2026, 12, 1)),
        ("dall-e-3", Status.RETIRED, date(2026, 5, 12)),
    ],
)
def test_a_model_says_whether_and_until_when_it_is_sold(
    name: str, status: Status, shutdown_date: date | None
) -> None:
    model = CATALOGUE.model(name)
    assert (model.status, model.shutdown_date) == (status, shutdown_date)


def test_requests_are_put_in_the_words_of_the_model() -> None:
    flare, older = CATALOGUE.model("gpt-image-2.5-flare"), CATALOGUE.model("gpt-image-2")
    dalle = CATALOGUE.model("dall-e-3")
    assert flare.call_size(Size.LANDSCAPE) == "1792x1024"
    assert older.call_size(Size.LANDSCAPE) == "1536x1024"
    assert older.call_size(Size.PORTRAIT) == "1024x1536"
    assert [flare.call_quality(quality) for quality in Quality] == ["medium", "high"]
    assert [dalle.call_quality(quality) for quality in Quality] == ["standard", "hd"]


@pytest.mark.parametrize(
    "name", ["gpt-image-2", "gpt-image-2.5-flare", "gpt-image-2.5-sunburst", "dall-e-3"]
)
def test_a_model_that_bounds_every_request_can_be_used(name: str) -> None:
    CATALOGUE.model(name).require_bounds()


@pytest.mark.parametrize("name", ["gpt-image-2.6-flare", "gpt-image-2.6-sunburst"])
def test_a_model_without_prices_for_wide_pictures_is_refused_by_name(name: str) -> None:
    model = CATALOGUE.model(name)
    assert model.unbounded() == [
        (Size.LANDSCAPE, Quality.STANDARD),
        (Size.LANDSCAPE, Quality.HD),
        (Size.PORTRAIT, Quality.STANDARD),
        (Size.PORTRAIT, Quality.HD),
    ]
    with pytest.raises(NoBound, match=f"{name} has no published price.* 1792x1024 standard, "):
        model.require_bounds()


@pytest.mark.parametrize(
    ("written", "instead", "problem"),
    [
        ('"0.02"', "0.02", r"tiny: prices.*medium.*money is written as text"),
        ('"30.00"', '"dear"', r"tiny: rates\.image_out"),
        ('"0.100"', '"-0.1"', r"tiny: prices.*high"),
        ('"5.00"', '"NaN"', r"tiny: rates\.text_in"),
        ('status = "live"', 'status = "dead"', r"tiny: status"),
        ('status = "live"', "", r"tiny: status.*required"),
        ("takes_style", "take_style", r"tiny: takes_style.*required"),
        (', hd = "high"', "", r"tiny: .*nothing is said about hd"),
        (', 1024x1792 = "1024x1536"', "", r"tiny: .*nothing is said about 1024x1792"),
        ('"1536x1024"', '"wide"', r"tiny: sizes\.1792x1024"),
        ('"tiny"', '"tiny", "tiny"', r"tiny twice"),
        ('["tiny"]', "[]", r"models\.0\.names"),
        ("[[models]]", "[[modells]]", r"models: Field required"),
        ('["tiny"]', '["tiny"', r"not TOML"),
    ],
)
def test_a_wrong_entry_is_named(written: str, instead: str, problem: str) -> None:
    assert written in SMALL
    with pytest.raises(CatalogueError, match=problem):
        parse_catalogue(SMALL.replace(written, instead))


def test_an_entry_speaks_for_every_model_it_names() -> None:
    catalogue = parse_catalogue(SMALL.replace('"tiny"', '"tiny", "small"'))
    assert catalogue.names == ("tiny", "small")
    assert catalogue.model("small").prices == catalogue.model("tiny").prices
