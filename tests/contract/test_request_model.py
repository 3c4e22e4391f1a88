"""The request model: every field and value of the specification, its defaults and its bounds."""

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.problems import explain
from schemas.request import EntityCreated, ImageRequest, Quality, Size, Style

HERO = {"type": "hero", "context": {"title": "Karasu"}}
ENTITY = {"entityType": "listing", "entityId": "4711"}


def refusal(body: object, model: type[ImageRequest] = ImageRequest) -> str:
    with pytest.raises(ValidationError) as refused:
        model.from_wire(body)
    return explain(refused.value)


def with_upload(**upload: object) -> dict[str, Any]:
    return {**HERO, "upload": upload}


def test_every_field_of_the_specification_is_read() -> None:
    request = ImageRequest.from_wire(
        {
            "type": "listing",
            "context": {
                "title": "Modern Daire",
                "propertyType": "daire",
                "location": "Karasu, Sakarya",
                "features": {"balkon": True},
                "status": "kiralik",
                "category": "konut",
                "name": "Ada Evleri",
                "district": "Yalı",
                "description": "Denize 100 metre.",
                "theme": "yaz",
            },
            "options": {"size": "1024x1792", "quality": "hd", "style": "vivid"},
            "upload": {
                "folder": "listings/karasu",
                "entityType": "listing",
                "entityId": "listing-id",
                "alt": "Modern Daire - Karasu",
                "tags": ["karasu", "daire"],
            },
            "skipCache": True,
        }
    )
    assert request.context.property_type == "daire"
    assert request.context.features == {"balkon": True}
    assert request.size is Size.PORTRAIT
    assert (request.options.quality, request.options.style) == (Quality.HD, Style.VIVID)
    assert request.upload.entity is not None
    assert request.upload.entity.key == "listing:listing-id"
    assert request.upload.tags == ("karasu", "daire")
    assert request.alt == ("Modern Daire - Karasu", False)
    assert request.skip_cache is True


def test_defaults() -> None:
    article = ImageRequest.from_wire({"type": "article", "context": {"title": "Karasu"}})
    assert article.size is Size.SQUARE
    assert ImageRequest.from_wire(HERO).size is Size.LANDSCAPE
    assert (article.options.quality, article.options.style) == (Quality.STANDARD, Style.NATURAL)
    assert article.skip_cache is False
    assert article.upload.entity is None


@pytest.mark.parametrize(
    ("body", "alt"),
    [
        ({**HERO, "context": {"title": " Deniz \n manzarası ", "name": "x"}}, "Deniz manzarası"),
        ({**HERO, "context": {"name": "Yalı"}, "upload": {"alt": "  "}}, "Yalı"),
        ({**HERO, "context": {"theme": "sonbahar"}}, "sonbahar"),
        ({**HERO, "context": {"mood": "calm"}}, "hero"),
        ({"type": "custom", "prompt": "şehir " * 100}, "şehir " * 19 + "şehir…"),
        ({"type": "custom", "prompt": "x" * 500}, "x" * 124 + "…"),
        ({"type": "custom", "prompt": "a", "context": {"title": "b"}}, "b"),
    ],
)
def test_alt_text_is_derived_when_none_is_given(body: object, alt: str) -> None:
    assert ImageRequest.from_wire(body).alt == (alt, True)


def test_unknown_context_keys_are_kept() -> None:
    extras = {"mood": "calm", "rooms": [3, 1], "nested": {"a": None}}
    request = ImageRequest.from_wire({**HERO, "context": {"title": "x", **extras}})
    assert request.context.model_extra == extras


def test_null_in_the_context_means_absent() -> None:
    context = {"title": "x", "features": None, "status": None, "propertyType": None}
    assert ImageRequest.from_wire({**HERO, "context": context}).context.features is None


def test_python_names_are_not_wire_names() -> None:
    assert refusal({**HERO, "skip_cache": True}) == (
        "skip_cache: is not a known field; leave it out"
    )
    context = ImageRequest.from_wire({**HERO, "context": {"property_type": "villa"}}).context
    assert context.property_type is None
    assert context.model_extra == {"property_type": "villa"}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "type: is required"),
        ([], "must be an object, not a list"),
        (
            {**HERO, "type": "poster"},
            "type: 'poster' is not one of listing, article, neighborhood, hero, custom",
        ),
        (
            {**HERO, "options": {"size": "512x512"}},
            "options.size: '512x512' is not one of 1024x1024, 1792x1024, 1024x1792",
        ),
        (
            {**HERO, "options": {"quality": "ultra", "style": None}},
            "options.quality: 'ultra' is not one of standard, hd; "
            "options.style: null is not one of vivid, natural",
        ),
        (
            {**HERO, "context": {"title": 12, "status": "sold", "features": []}},
            "context.title: must be a string, not a number; "
            "context.features: must be an object, not a list; "
            "context.status: 'sold' is not one of satilik, kiralik",
        ),
        (with_upload(entityId=5), "upload.entityId: must be a string, not a number"),
        (with_upload(entityId=""), "upload.entityId: must not be empty"),
        (
            with_upload(entityId=" "),
            "upload.entityId: must not be blank or hold control characters",
        ),
        (with_upload(tags="a,b"), "upload.tags: must be a list, not a string"),
        ({**HERO, "skipCache": "true"}, "skipCache: must be true or false, not a string"),
        ({**HERO, "skipCache": 1}, "skipCache: must be true or false, not a number"),
        ({"type": "custom"}, "prompt: is required for type custom"),
        ({"type": "custom", "prompt": " \n"}, "prompt: is required for type custom"),
        (
            {**HERO, "prompt": "a cat"},
            "prompt: is only for type custom; leave it out or use type custom, not hero",
        ),
        ({"type": "hero"}, "context: says nothing; type hero needs at least a title or a name"),
    ],
)
def test_a_refusal_names_the_field_and_what_to_do(body: object, sentence: str) -> None:
    assert refusal(body) == sentence


def test_many_problems_still_make_a_short_sentence() -> None:
    sentence = refusal({**HERO, **{f"{n}-{'x' * 1000}": n for n in range(100)}})
    assert sentence.endswith("; and 95 more")
    assert len(sentence) < 2_000


@pytest.mark.parametrize("blank", [None, "", "  \t", {}, [], {"a": {"b": " "}}])
def test_a_context_of_blanks_says_nothing(blank: object) -> None:
    assert refusal({"type": "listing", "context": {"x": blank}}).startswith("context: says nothing")


@pytest.mark.parametrize("given", [False, 0, [None], "x"])
def test_false_and_zero_say_something(given: object) -> None:
    ImageRequest.from_wire({"type": "listing", "context": {"x": given}})


@pytest.mark.parametrize(
    ("within", "beyond", "sentence"),
    [
        (
            {**HERO, "context": {"title": "ş" * 500}},
            {**HERO, "context": {"title": "ş" * 501}},
            "context.title: has 501 characters; at most 500 are allowed",
        ),
        (
            {**HERO, "context": {"theme": "x" * 300}},
            {**HERO, "context": {"theme": "x" * 301}},
            "context.theme: has 301 characters; at most 300 are allowed",
        ),
        (
            {**HERO, "context": {"description": "x" * 5_000}},
            {**HERO, "context": {"description": "x" * 5_001}},
            "context.description: has 5001 characters; at most 5000 are allowed",
        ),
        (
            {**HERO, "context": {"x": "ş" * 16_379}},
            {**HERO, "context": {"x": "ş" * 16_381}},
            "context: is 32770 bytes of JSON; at most 32768 are allowed",
        ),
        (
            {**HERO, "context": {"x": [{str(n): n for n in range(199)}]}},
            {**HERO, "context": {"features": {str(n): n for n in range(200)}}},
            "context: has 201 keys, nested ones included; at most 200 are allowed",
        ),
        (
            {"type": "custom", "prompt": "x" * 32_000},
            {"type": "custom", "prompt": "x" * 32_001},
            "prompt: has 32001 characters; at most 32000 are allowed",
        ),
        (
            with_upload(entityId="x" * 200),
            with_upload(entityId="x" * 201),
            "upload.entityId: has 201 characters; at most 200 are allowed",
        ),
        (
            with_upload(alt="x" * 500),
            with_upload(alt="x" * 501),
            "upload.alt: has 501 characters; at most 500 are allowed",
        ),
        (
            with_upload(tags=["x" * 100] * 50),
            with_upload(tags=["x"] * 51),
            "upload.tags: has 51 items; at most 50 are allowed",
        ),
    ],
)
def test_bounds(within: object, beyond: object, sentence: str) -> None:
    ImageRequest.from_wire(within)
    assert refusal(beyond) == sentence


@pytest.mark.parametrize(
    "folder", ["listings", "listings/karasu", "ilan/yalı mah", "a..b/.c", "v1a/2", "x" * 60]
)
def test_plain_folders(folder: str) -> None:
    assert ImageRequest.from_wire(with_upload(folder=folder)).upload.folder == folder


@pytest.mark.parametrize(
    "folder",
    ["", ".", "..", "../x", "a/../b", "a/..", "a/./b", "/a", "a/", "a//b", "C:/x", "C:", "a\\b"]
    + ["a\nb", "a\n", "a\u0085", " a", "a /b", "...", "v12", "a/v1", "x" * 61]
    + [f"a{refused}b" for refused in '?&#%<>+:*"|'],
)
def test_folders_that_leave_the_directory_or_that_a_host_refuses(folder: str) -> None:
    assert refusal(with_upload(folder=folder)).startswith("upload.folder: must be a relative path")


@pytest.mark.parametrize("entity_id", ["a\nb", "a\n", "\x7f", "a\u0085b", "\u2003"])
def test_entity_ids_fit_a_kafka_key(entity_id: str) -> None:
    assert refusal(with_upload(entityId=entity_id)).startswith("upload.entityId: must not be blank")


@pytest.mark.parametrize("tag", ["a,b", " ", "a\tb"])
def test_tags_without_commas(tag: str) -> None:
    assert refusal(with_upload(tags=[tag])).startswith("upload.tags.0: must not be blank or hold")


def test_an_event_names_its_entity() -> None:
    assert refusal(HERO, EntityCreated) == "upload: is required"
    assert refusal({**HERO, "upload": {}}, EntityCreated) == (
        "upload.entityType: is required; upload.entityId: is required"
    )
    event = EntityCreated.from_wire({**HERO, "upload": ENTITY})
    assert event.upload.entity_id == "4711"
