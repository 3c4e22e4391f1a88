"""Answers of the image model that make no sense: classified, bounded in memory, never a picture."""

import base64
import io
import json
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from pipeline.adapters.openai_images import OpenAIImages
from pipeline.errors import OutcomeUnknown, OutsideError
from pipeline.ports import ImageCall
from sandbox.faults import Fault
from sandbox.server import Sandbox

CALL = ImageCall("gpt-image-2.5-flare", "Bir daire", "1024x1024", "medium", output_format="webp")
MOST_MEMORY = 250_000_000  # bytes for an answer of 50 MB: itself, its text, its picture


@contextmanager
def server_that_answers(body: bytes, media_type: str = "application/json") -> Iterator[str]:
    """The base URL of a server whose every answer is a 200 with this body."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", media_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def carrying(picture: bytes) -> bytes:
    """A well-formed answer with these bytes as its picture."""
    return json.dumps({"data": [{"b64_json": base64.b64encode(picture).decode()}]}).encode()


def picture_of(picture_format: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, picture_format)
    return file.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a picture of that many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


async def failure(address: str) -> OutsideError:
    images = OpenAIImages(api_key="sk-test", base_url=address, timeout=20)
    try:
        with pytest.raises(OutsideError) as caught:
            await images.generate(CALL)
    finally:
        await images.close()
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"data": null}',
        b'{"data": {}}',
        b'{"data": [null]}',
        b'{"data": [{}]}',
        b'{"data": [{"b64_json": ""}]}',
        b'{"data": [{"b64_json": 7}]}',
        b'{"data": [{"b64_json": "abc"}]}',
        b'{"data": [{"url": "file:///etc/passwd"}]}',
        b'{"data": [{"url": "http://"}]}',
        b'{"data": ' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
async def test_an_answer_without_a_picture_is_an_unknown_outcome(body: bytes) -> None:
    with server_that_answers(body) as address:
        error = await failure(address)

    assert isinstance(error, OutcomeUnknown)
    assert error.code in ("bad_response", "download_failed")


@pytest.mark.parametrize("media_type", ["text/html", "application/json", "image/png"])
async def test_a_page_is_no_picture_whatever_it_calls_itself(media_type: str) -> None:
    with server_that_answers(b"<html><body>Sign in</body></html>", media_type) as address:
        error = await failure(address)

    assert isinstance(error, OutcomeUnknown)
    assert error.code == "bad_response"


@pytest.mark.parametrize(
    "picture",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        picture_of("gif"),
        picture_of("bmp"),
        picture_of("webp")[:-20],
        picture_of("png")[:80],
        picture_of("jpeg")[:100],
        picture_of("png")[:8] + b"\0" * 1000,
        png_that_claims(50_000, 50_000),
        png_that_claims(0, 0),
        png_that_claims(1024, 1024),
    ],
)
async def test_bytes_that_are_no_whole_picture_of_ours_are_an_unknown_outcome(
    picture: bytes,
) -> None:
    with server_that_answers(carrying(picture)) as address:
        error = await failure(address)

    assert isinstance(error, OutcomeUnknown)
    assert error.code == "bad_response"


@pytest.mark.parametrize("picture_format", ["webp", "png", "jpeg"])
async def test_a_picture_in_another_format_than_asked_is_described_as_it_is(
    picture_format: str,
) -> None:
    with server_that_answers(carrying(picture_of(picture_format))) as address:
        images = OpenAIImages(api_key="sk-test", base_url=address, timeout=20)
        image = await images.generate(CALL)
        await images.close()

    assert (image.facts.format, image.facts.width, image.facts.height) == (picture_format, 64, 64)


@pytest.mark.parametrize("kind", ["large_body", "huge_body"])
async def test_a_large_answer_is_refused_within_bounded_memory(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(Fault("openai", kind))

    tracemalloc.start()
    try:
        error = await failure(sandbox.openai_base_url)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(error, OutcomeUnknown)
    assert error.code == "bad_response"
    assert peak < MOST_MEMORY
