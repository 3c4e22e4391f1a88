"""Which requests are the same picture, and which are not."""

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ports import ImageCall
from pipeline.rules.fingerprint import (
    HASH_VERSION,
    canonical_form,
    context_hash,
    context_hashes,
    prompt_hash,
)
from schemas.request import ImageRequest

WORDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40
).filter(lambda text: not text.isspace())
CALL = ImageCall("gpt-image-2.5-flare", "A red door", "1024x1024", "medium", output_format="webp")


def listing(**context: Any) -> ImageRequest:
    return ImageRequest.model_validate({"type": "listing", "context": context})


def same(one: ImageRequest, other: ImageRequest) -> bool:
    return context_hash(one) == context_hash(other)


def test_the_hashed_form_is_written_down() -> None:
    request = ImageRequest.model_validate(
        {
            "type": "listing",
            "context": {
                "title": "  Modern\u00a0 DAİRE ",
                "propertyType": "daire",
                "features": {"balkon": True, "asansör": False, "kat": 0, "not": "", "ek": {}},
                "status": "satilik",
            },
            "options": {"size": "1792x1024", "quality": "hd"},
        }
    )
    assert canonical_form(request).decode() == (
        '{"context":{"features":{"asansör":false,"balkon":true,"kat":0},"propertyType":"daire",'
        '"status":"satilik","title":"modern daire"},"hashVersion":1,"quality":"hd",'
        '"size":"1792x1024","style":"natural","type":"listing"}'
    )
    assert (
        context_hash(request) == "81286c9dbc54aab87b1bf0246870fba72ada223eee33991a74f17eb470fc9b1a"
    )


def test_a_custom_prompt_is_hashed_as_it_is_without_its_context() -> None:
    request = ImageRequest.model_validate(
        {"type": "custom", "prompt": "\n A  Red İ door ", "context": {"title": "not in it"}}
    )
    assert canonical_form(request).decode() == (
        '{"hashVersion":1,"prompt":"A  Red İ door","quality":"standard",'
        '"size":"1024x1024","style":"natural","type":"custom"}'
    )
    assert (
        context_hash(request) == "6ae1211380ccdd42a9aba672edebca8f482854c7ece91feec6d2962e62dd5213"
    )


def test_the_current_version_is_looked_up_first() -> None:
    request = listing(title="Modern Daire")
    assert context_hashes(request)[0] == context_hash(request, HASH_VERSION)


@pytest.mark.parametrize(
    "spelling",
    [
        "İSTANBUL",
        "istanbul",
        "ıstanbul",
        "ISTANBUL",
        "I\u0307STANBUL",  # decomposed İ
        "i\u0307stanbul",  # İ as other languages lower it
        " \tistanbul\n",
    ],
)
def test_spellings_of_one_place_are_one_picture(spelling: str) -> None:
    assert same(
        listing(title="istanbul", location=spelling), listing(title="istanbul", location="İstanbul")
    )


@pytest.mark.parametrize("city", ["Çamlıca Gölü Şehri Ğ Ü", "Yalı İçi", "Ǻngström ệ"])
def test_composed_and_decomposed_letters_are_one(city: str) -> None:
    assert same(
        listing(title=unicodedata.normalize("NFC", city), features={city: "ö"}),
        listing(
            title=unicodedata.normalize("NFD", city),
            features={unicodedata.normalize("NFD", city): "o\u0308"},
        ),
    )


@pytest.mark.parametrize(
    "empty",
    [
        {"description": None},
        {"description": " \u3000\n"},
        {"features": {}},
        {"features": {"balkon": None, "dış": {"not": "", "ek": {"liste": []}}}},
        {"ownKey": []},
    ],
)
def test_what_says_nothing_changes_nothing(empty: dict[str, Any]) -> None:
    assert same(listing(title="Modern Daire", **empty), listing(title="Modern Daire"))


def test_every_statement_and_the_order_of_a_list_counts() -> None:
    statements: list[dict[str, Any]] = [
        {},
        {"balkon": False},
        {"balkon": 0},
        {"balkon": True},
        {"balkon": 1},
        {"Balkon": True},
        {"manzara": ["deniz", "orman"]},
        {"manzara": ["orman", "deniz"]},
        {"manzara": ["deniz", "orman", None]},
        {"manzara": ["deniz", "orman", ""]},
    ]
    hashes = {context_hash(listing(title="x", features=features)) for features in statements}
    assert len(hashes) == len(statements)


BASE: dict[str, Any] = {"type": "listing", "context": {"title": "Modern Daire"}}


@pytest.mark.parametrize(
    "change",
    [
        {"upload": {"entityType": "listing", "entityId": "17"}},
        {"upload": {"alt": "Başka"}},
        {"upload": {"tags": ["a", "b"]}},
        {"upload": {"folder": "listings/karasu"}},
        {"skipCache": True},
        {"options": {}},
        {"options": {"size": "1024x1024", "quality": "standard", "style": "natural"}},
        {"prompt": None},
        {"context": {"title": "modern  daire"}},
    ],
)
def test_who_asks_and_spelt_out_defaults_do_not_matter(change: dict[str, Any]) -> None:
    assert same(ImageRequest.model_validate(BASE | change), ImageRequest.model_validate(BASE))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "article"},
        {"type": "hero"},
        {"options": {"size": "1792x1024"}},
        {"options": {"quality": "hd"}},
        {"options": {"style": "vivid"}},
        {"context": {"name": "Modern Daire"}},
        {"context": {"title": "Modern Daire", "status": "satilik"}},
        {"context": {"title": "Modern Daire", "status": "kiralik"}},
        {"context": {"title": "Modern Daire 2"}},
        {"context": {"title": "Modern Daire", "ownKey": "x"}},
        {"context": {"title": "Mödern Daire"}},
    ],
)
def test_what_is_asked_for_matters(change: dict[str, Any]) -> None:
    assert not same(ImageRequest.model_validate(BASE | change), ImageRequest.model_validate(BASE))


def test_the_default_size_of_a_hero_is_filled_in() -> None:
    hero = {"type": "hero", "context": {"theme": "deniz"}}
    wide = hero | {"options": {"size": "1792x1024"}}
    assert same(ImageRequest.model_validate(hero), ImageRequest.model_validate(wide))


@given(st.dictionaries(WORDS, WORDS, min_size=2, max_size=5))
def test_the_order_of_keys_is_irrelevant(features: dict[str, str]) -> None:
    turned = dict(reversed(features.items()))
    assert same(listing(title="x", features=features), listing(title="x", features=turned))


@given(WORDS)
def test_normalised_text_is_normal(title: str) -> None:
    def hashed_title(text: str) -> Any:
        return json.loads(canonical_form(listing(title=text)))["context"]["title"]

    assert hashed_title(hashed_title(title)) == hashed_title(title)


@given(WORDS)
def test_normal_forms_and_white_space_never_matter(title: str) -> None:
    plain = listing(title=title)
    for form in ("NFC", "NFD"):
        spaced = "\n " + unicodedata.normalize(form, title).replace(" ", " \t ") + " "
        assert same(listing(title=spaced), plain)


@given(st.text(st.sampled_from("abcçdefgğhıijklmnoöprsştuüvyz"), min_size=1, max_size=40))
def test_letter_case_never_matters_in_turkish_words(word: str) -> None:
    assert same(listing(title=word.upper()), listing(title=word))


def test_the_hash_of_a_call_is_written_down() -> None:
    # {"model":…,"output_format":…,"prompt":…,"quality":…,"size":…}, without the absent style
    assert prompt_hash(CALL) == "8bbcd579a7b73a0d4979b51c5024e21717934719c7984b5550c1254c4ecb7dd9"


@pytest.mark.parametrize(
    "other",
    [
        ImageCall("gpt-image-2", "A red door", "1024x1024", "medium", output_format="webp"),
        ImageCall(CALL.model, "A red  door", "1024x1024", "medium", output_format="webp"),
        ImageCall(CALL.model, "A red door", "1536x1024", "medium", output_format="webp"),
        ImageCall(CALL.model, "A red door", "1024x1024", "high", output_format="webp"),
        ImageCall(CALL.model, "A red door", "1024x1024", "medium", output_format="png"),
        ImageCall(CALL.model, "A red door", "1024x1024", "medium"),
        ImageCall(CALL.model, "A red door", "1024x1024", "medium", "vivid", "webp"),
    ],
)
def test_every_parameter_that_is_sent_is_in_the_hash_of_a_call(other: ImageCall) -> None:
    assert prompt_hash(other) != prompt_hash(CALL)
