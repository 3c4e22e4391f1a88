"""The published documents are current, consistent, and show examples that are true."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from schemas import api, examples
from schemas.documents import DIRECTORY, stale
from schemas.outcomes import ImageDeferred, ImageFailed, ImageReady
from schemas.request import EntityCreated, ImageRequest
from schemas.wire import WireModel

MODELS: dict[str, type[WireModel]] = {
    "generate-image": ImageRequest,
    "entity-created": EntityCreated,
    "image-ready": ImageReady,
    "image-failed": ImageFailed,
    "image-deferred": ImageDeferred,
}


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def test_no_document_is_stale() -> None:
    assert stale() == [], "run `python -m schemas`"


@pytest.mark.parametrize("document", sorted(DIRECTORY.rglob("*.json")), ids=lambda path: path.name)
def test_every_reference_leads_somewhere(document: Path) -> None:
    for reference in references(load(document)):
        file, _, pointer = reference.partition("#")
        target = load(document.parent / file if file else document)
        for step in filter(None, pointer.split("/")):
            target = target[step]
        assert target is not None


@pytest.mark.parametrize(("name", "model"), MODELS.items())
def test_examples_are_valid(name: str, model: type[WireModel]) -> None:
    schema = load(DIRECTORY / "json" / f"{name}.schema.json")
    assert schema["examples"]
    for example in schema["examples"]:
        model.from_wire(example)


def test_every_message_shows_an_example_that_its_headers_and_payload_allow() -> None:
    messages = load(DIRECTORY / "asyncapi.json")["components"]["messages"]
    assert messages.keys() == {
        "entityCreated",
        "imageReady",
        "imageFailed",
        "imageDeferred",
        "deadLetter",
    }
    for message in messages.values():
        for example in message.get("examples", []):
            name = Path(message["payload"]["schema"]["$ref"]).name.removesuffix(".schema.json")
            MODELS[name].from_wire(example["payload"])
            assert set(message["headers"]["required"]) <= example["headers"].keys()
            for header, schema in message["headers"]["properties"].items():
                if "const" in schema:
                    assert example["headers"][header] == schema["const"]


def test_an_event_has_to_name_its_entity_and_outcomes_may_grow() -> None:
    event = load(DIRECTORY / "json" / "entity-created.schema.json")
    assert event["$defs"]["EntityUpload"]["required"] == ["entityType", "entityId"]
    assert "upload" in event["required"]
    for name in ("image-ready", "image-failed", "image-deferred"):
        text = (DIRECTORY / "json" / f"{name}.schema.json").read_text(encoding="utf-8")
        assert "additionalProperties" not in text


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (api.GeneratedImage, examples.GENERATED_IMAGE),
        (api.FinishedImage, examples.FINISHED_IMAGE),
        (api.Underway, examples.UNDERWAY),
        (api.Problem, examples.PROBLEM),
        (api.Refused, examples.REFUSED),
        (api.FailedRequest, examples.FAILED_REQUEST),
    ],
)
def test_examples_of_answers_are_what_the_models_write(
    model: type[BaseModel], example: dict[str, Any]
) -> None:
    assert model.model_validate(example).model_dump(mode="json") == example
