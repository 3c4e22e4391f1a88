"""What the contract tests share: a running sandbox and pictures to send."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipeline.adapters.pictures import inspect
from pipeline.ports import Upload
from sandbox.server import Sandbox

MakeUpload = Callable[..., Upload]


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "sandbox") as running:
        yield running


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Bytes of a one-coloured picture, by default a small webp."""

    def make(picture_format: str = "webp", colour: str = "teal", size: int = 32) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (size, size // 2), colour).save(file, picture_format)
        return file.getvalue()

    return make


@pytest.fixture
def make_upload(picture: Callable[..., bytes]) -> MakeUpload:
    """An upload of a small picture; every field can be given."""

    def make(
        public_id: str = "ai-7-0a1b2c",
        folder: str | None = "listings/karasu",
        data: bytes | None = None,
        alt: str = "Modern Daire - Karasu",
        tags: tuple[str, ...] = ("ai", "listing"),
    ) -> Upload:
        data = data if data is not None else picture()
        return Upload(public_id, folder, data, inspect(data), alt, tags)

    return make
