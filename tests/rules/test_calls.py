"""The whole call that a request becomes, for the models that differ."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.rules.calls import PromptTooLong, build_call
from pipeline.rules.catalogue import parse_catalogue
from pipeline.rules.fingerprint import prompt_hash
from schemas.request import ImageRequest

CATALOGUE_FILE = Path(__file__).parents[2] / "pipeline" / "catalogue.toml"
CATALOGUE = parse_catalogue(CATALOGUE_FILE.read_text(encoding="utf-8"))
FLARE = CATALOGUE.model("gpt-image-2.5-flare")
DALLE = CATALOGUE.model("dall-e-3")
EXAMPLE: dict[str, Any] = {
    "type": "listing",
    "context": {
        "title": "Modern Daire",
        "propertyType": "daire",
        "location": "Karasu, Sakarya",
        "status": "satilik",
    },
    "options": {"size": "1792x1024", "quality": "hd"},
}


def request(**changes: Any) -> ImageRequest:
    return ImageRequest.model_validate(EXAMPLE | changes)


def test_a_gpt_image_model_gets_its_format_and_style_in_words() -> None:
    call = build_call(request(), FLARE)
    assert (call.model, call.size, call.quality) == ("gpt-image-2.5-flare", "1792x1024", "high")
    assert (call.style, call.output_format) == (None, "webp")
    assert "Style: natural" in call.prompt


def test_dall_e_3_gets_its_style_as_a_parameter_and_no_format() -> None:
    call = build_call(request(), DALLE)
    assert (call.model, call.size, call.quality) == ("dall-e-3", "1792x1024", "hd")
    assert (call.style, call.output_format) == ("natural", None)
    assert "Style:" not in call.prompt


def test_a_size_that_the_model_does_not_sell_is_replaced() -> None:
    assert build_call(request(), CATALOGUE.model("gpt-image-2")).size == "1536x1024"


def test_the_format_can_be_chosen() -> None:
    assert build_call(request(), FLARE, output_format="png").output_format == "png"
    assert build_call(request(), DALLE, output_format="png").output_format is None


def test_a_custom_prompt_fits_one_model_and_not_the_other() -> None:
    custom = request(type="custom", prompt="x" * 4_001)
    assert build_call(custom, FLARE).prompt == "x" * 4_001
    with pytest.raises(PromptTooLong, match="4,001 characters; the model takes at most 4,000"):
        build_call(custom, DALLE)


def test_contexts_that_look_the_same_are_one_call() -> None:
    spelt = EXAMPLE["context"] | {"propertyType": "Apartment", "slug": "modern-daire-17"}
    calls = [build_call(request(), FLARE), build_call(request(context=spelt), FLARE)]
    assert prompt_hash(calls[0]) == prompt_hash(calls[1])


def test_another_title_is_another_call() -> None:
    renamed = EXAMPLE["context"] | {"title": "Modern Daire 2"}
    calls = [build_call(request(), FLARE), build_call(request(context=renamed), FLARE)]
    assert prompt_hash(calls[0]) != prompt_hash(calls[1])
