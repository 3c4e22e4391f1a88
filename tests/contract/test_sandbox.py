"""The sandbox behaves like the services it stands for, also for other clients than ours."""

import base64
import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from pipeline.adapters.pictures import inspect
from sandbox.drawing import draw, what_was_asked
from sandbox.faults import Fault
from sandbox.server import Sandbox

ROOT = Path(__file__).resolve().parents[2]
KEY = {"authorization": "Bearer any"}


def order(**changes: Any) -> dict[str, Any]:
    body = {
        "model": "gpt-image-2.5-flare",
        "prompt": "a lighthouse",
        "size": "1024x1024",
        "quality": "low",
    }
    return {name: value for name, value in (body | changes).items() if value is not None}


def generate(sandbox: Sandbox, **changes: Any) -> httpx2.Response:
    address = f"{sandbox.openai_base_url}/images/generations"
    return httpx2.post(address, json=order(**changes), headers=KEY, timeout=20)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"response_format": "b64_json"}, "unknown_parameter"),
        ({"style": "vivid"}, "unknown_parameter"),
        ({"quality": "hd"}, "invalid_value"),
        ({"size": "1000x1000"}, "invalid_value"),
        ({"size": "256x256"}, "invalid_value"),
        ({"size": "3200x1024"}, "invalid_value"),
        ({"model": "gpt-image-1.5", "size": "1792x1024"}, "invalid_value"),
        ({"model": "gpt-image-2", "quality": "max"}, "invalid_value"),
        ({"model": "dall-e-3", "quality": "low"}, "invalid_value"),
        ({"prompt": ""}, "invalid_value"),
        ({"prompt": "x" * 32_001}, "invalid_value"),
        ({"output_format": "gif"}, "invalid_value"),
    ],
)
def test_a_model_refuses_what_it_does_not_know(
    sandbox: Sandbox, changes: dict[str, Any], code: str
) -> None:
    answer = generate(sandbox, **changes)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code
    assert sandbox.purchases == []


@pytest.mark.parametrize("model", ["gpt-image-1", "dall-e-2", "no-such-model"])
def test_a_retired_model_is_not_found(sandbox: Sandbox, model: str) -> None:
    answer = generate(sandbox, model=model)

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_a_key_is_required(sandbox: Sandbox) -> None:
    address = f"{sandbox.openai_base_url}/images/generations"

    assert httpx2.post(address, json=order()).status_code == 401


@pytest.mark.parametrize(
    ("changes", "output_tokens"),
    [
        ({"quality": "low"}, 196),
        ({"quality": "max"}, 7024),
        ({"quality": "high", "size": "1536x1024"}, 1373),
        ({"quality": "high", "size": "1792x1024"}, 3566),  # .107 at 30 per million
        ({"model": "gpt-image-1-mini", "quality": "medium"}, 1375),  # .011 at 8 per million
    ],
)
def test_usage_follows_the_published_figures(
    sandbox: Sandbox, changes: dict[str, Any], output_tokens: int
) -> None:
    usage = generate(sandbox, **changes).json()["usage"]

    assert usage["output_tokens"] == output_tokens
    assert usage["input_tokens"] == 3  # "a lighthouse": 12 letters


@pytest.mark.parametrize("output_format", ["webp", "png", "jpeg"])
def test_the_picture_has_the_asked_size_and_format(sandbox: Sandbox, output_format: str) -> None:
    answer = generate(sandbox, size="1792x1024", output_format=output_format).json()

    with Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))) as picture:
        assert (picture.size, picture.format) == ((1792, 1024), output_format.upper())
    assert len(sandbox.purchases) == 1


def test_dall_e_3_answers_in_the_asked_way(sandbox: Sandbox) -> None:
    dall_e = {"model": "dall-e-3", "quality": "hd"}
    [by_url] = generate(sandbox, **dall_e).json()["data"]
    [by_value] = generate(sandbox, **dall_e, response_format="b64_json").json()["data"]

    assert httpx2.get(by_url["url"]).content == base64.b64decode(by_value["b64_json"])
    assert by_url["revised_prompt"]


def test_the_models_say_when_they_are_shut_down(sandbox: Sandbox) -> None:
    models = httpx2.get(f"{sandbox.openai_base_url}/models", headers=KEY).json()["data"]

    dates = {model["id"]: model["shutdown_date"] for model in models}
    assert dates["gpt-image-1.5"] == "2026-12-01"
    assert dates["gpt-image-2.5-flare"] is None


def test_other_processes_can_ask_for_faults_and_see_the_purchases(sandbox: Sandbox) -> None:
    address = f"{sandbox.base_url}/sandbox"
    fault = {"target": "openai", "kind": "server_error", "prompt_contains": "storm"}

    assert httpx2.post(f"{address}/faults", json=fault).status_code == 201
    assert httpx2.post(f"{address}/faults", json=fault | {"kind": "x"}).status_code == 400
    assert generate(sandbox, prompt="calm sea").status_code == 200
    assert generate(sandbox, prompt="storm at sea").status_code == 500
    assert generate(sandbox, prompt="storm at sea").status_code == 200
    sold = httpx2.get(f"{address}/purchases").json()
    assert [purchase["prompt"] for purchase in sold] == ["calm sea", "storm at sea"]


@pytest.mark.parametrize("output_format", ["webp", "png", "jpeg"])
def test_pictures_from_stock_are_as_long_as_asked_for(tmp_path: Path, output_format: str) -> None:
    with Sandbox(tmp_path, picture_bytes=300_001) as stocked:
        answers = [
            generate(stocked, prompt=prompt, output_format=output_format).json()
            for prompt in ("a lighthouse", "the word *base64*")
        ]

    first, second = (base64.b64decode(answer["data"][0]["b64_json"]) for answer in answers)
    assert first == second
    assert 300_001 <= len(first) < 300_200
    facts = inspect(first)
    assert (facts.format, facts.width, facts.height) == (output_format, 1024, 1024)


def test_the_sandbox_as_a_process_lasts_until_its_input_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sandbox", str(tmp_path), "--picture-bytes", "50000"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        url = f"{addresses['openai_base_url']}/images/generations"
        answer = httpx2.post(url, json=order(), headers=KEY, timeout=30)

    assert answer.status_code == 200
    assert addresses["cloudinary_url"].startswith("cloudinary://")
    assert process.returncode == 0


def test_a_buyer_who_leaves_has_bought_all_the_same(tmp_path: Path) -> None:
    with Sandbox(tmp_path, latency=0.5) as slow:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(
                f"{slow.openai_base_url}/images/generations",
                json=order(),
                headers=KEY,
                timeout=0.2,
            )
        deadline = time.monotonic() + 10
        while not slow.purchases and time.monotonic() < deadline:
            threading.Event().wait(0.02)

        assert len(slow.purchases) == 1


def test_stopping_does_not_wait_for_a_client_that_waits_for_ever(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    sandbox.start()
    sandbox.faults.add(Fault("openai", "timeout"))
    answers: list[Exception] = []

    def ask() -> None:
        try:
            generate(sandbox)
        except httpx2.HTTPError as error:
            answers.append(error)

    client = threading.Thread(target=ask)
    client.start()
    while sandbox.requests("openai") == 0:
        threading.Event().wait(0.01)
    begun = time.monotonic()
    sandbox.stop()
    client.join()

    assert time.monotonic() - begun < 5


def upload(sandbox: Sandbox, file: bytes, **fields: str) -> httpx2.Response:
    """A correctly signed upload, written out by hand; `fields` may spoil it."""
    signed = {"public_id": "a", "timestamp": str(int(time.time()))} | fields
    text = "&".join(sorted(f"{name}={value}" for name, value in signed.items()))
    signature = hashlib.sha1(f"{text}sandbox-secret".encode()).hexdigest()
    form = {"api_key": "sandbox-key", "signature": signature} | signed
    address = f"{sandbox.base_url}/v1_1/sandbox/image/upload"
    return httpx2.post(address, data=form, files={"file": ("a.png", file)})


def test_uploads_must_be_signed_and_fresh(sandbox: Sandbox) -> None:
    file = draw("a", 64, 64, "png")
    stale = str(int(time.time()) - 4000)

    assert upload(sandbox, file).status_code == 200
    assert upload(sandbox, file, timestamp=stale).status_code == 400
    assert upload(sandbox, file, signature="0" * 40).status_code == 401
    assert upload(sandbox, file, signature="").status_code == 401
    assert upload(sandbox, b"text").status_code == 400
    assert [asset.bytes for asset in sandbox.uploads] == [len(file)]


def test_a_file_full_of_line_breaks_and_dashes_arrives_unchanged(sandbox: Sandbox) -> None:
    """A picture may hold any bytes after its end, also those that look like a form."""
    file = draw("a", 64, 64, "jpeg") + b"\r\n--\r\n\r\n--boundary--\r\n\n"

    url = upload(sandbox, file).json()["secure_url"]

    assert httpx2.get(url).content == file


def test_overwriting_is_possible_when_asked_for(sandbox: Sandbox) -> None:
    small, large = draw("a", 64, 64, "png"), draw("a", 128, 64, "png")

    upload(sandbox, small)
    kept = upload(sandbox, large, overwrite="false").json()
    replaced = upload(sandbox, large).json()

    assert (kept["width"], kept["existing"], replaced["width"]) == (64, True, 128)


@pytest.mark.parametrize("path", ["../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt"])
def test_only_pictures_can_be_read(sandbox: Sandbox, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")

    assert httpx2.get(f"{sandbox.base_url}/pictures/{path}").status_code == 404


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ('Listing photograph: "Modern Daire"\nin Karasu', ("Listing photograph", "Modern Daire")),
        ("Hero image of “Şile’de yaz”, wide", ("Hero image of", "Şile’de yaz")),
        ("A red tractor", ("custom", "A red tractor")),
    ],
)
def test_a_picture_shows_what_was_asked(prompt: str, asked: tuple[str, str]) -> None:
    assert what_was_asked(prompt) == asked


def test_letters_with_marks_are_not_the_letters_without() -> None:
    pictures = {draw("x", 256, 256, "png")}
    for letter in "gğsşiıIİoöuücç":
        prompt = f'Listing: "{letter}"'
        canvas = Image.open(io.BytesIO(draw(prompt, 256, 256, "png"))).convert("L")
        bright = canvas.point(lambda value: 255 if value > 250 else 0)
        pictures.add(bright.tobytes())

    assert len(pictures) == 15


def test_drawing_is_quick() -> None:
    draw("warm up", 64, 64, "webp")
    begun = time.process_time()

    draw('Listing photograph: "Karasu’da denize sıfır geniş daire"', 1024, 1024, "webp")

    assert time.process_time() - begun < 0.5
