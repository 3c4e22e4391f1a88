"""What every media host promises, tried on both of them, and what only a disk can get wrong."""

import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2
import pytest
import pytest_asyncio
from PIL import Image

from pipeline.adapters.cloudinary_host import CloudinaryHost
from pipeline.adapters.local_disk import LocalDisk
from pipeline.adapters.pictures import inspect
from pipeline.errors import Rejected, Retryable
from pipeline.ports import MediaHost
from sandbox.server import Sandbox
from tests.contract.conftest import MakeUpload

Picture = Callable[..., bytes]


@pytest_asyncio.fixture(params=["cloudinary", "disk"])
async def host(
    request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path
) -> AsyncIterator[MediaHost]:
    either: MediaHost = (
        CloudinaryHost(cloudinary_url=sandbox.cloudinary_url, timeout=10)
        if request.param == "cloudinary"
        else LocalDisk(tmp_path / "media", None)
    )
    yield either
    await either.close()


def open_url(url: str) -> bytes:
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path)).read_bytes()
    return httpx2.get(url).raise_for_status().content


class TestEveryMediaHost:
    @pytest.mark.parametrize("picture_format", ["webp", "png", "jpeg"])
    async def test_keeps_the_bytes_and_answers_with_their_facts(
        self, host: MediaHost, make_upload: MakeUpload, picture: Picture, picture_format: str
    ) -> None:
        data = picture(picture_format)

        stored = await host.store(make_upload(data=data))

        assert open_url(stored.secure_url) == data
        assert open_url(stored.url) == data
        assert (stored.format, stored.width, stored.height) == (picture_format, 32, 16)
        assert stored.bytes == len(data)
        assert stored.public_id == "ai-7-0a1b2c"

    async def test_the_first_picture_under_a_public_id_stays(
        self, host: MediaHost, make_upload: MakeUpload, picture: Picture
    ) -> None:
        first = await host.store(make_upload(data=picture(colour="teal")))
        second = await host.store(make_upload(data=picture(colour="red", size=64)))

        assert second == first
        assert open_url(second.secure_url) == picture(colour="teal")

    async def test_a_picture_needs_no_folder(
        self, host: MediaHost, make_upload: MakeUpload
    ) -> None:
        upload = make_upload(folder=None)

        stored = await host.store(upload)

        assert open_url(stored.secure_url) == upload.data

    @pytest.mark.parametrize(
        "place",
        [
            {"folder": "../outside"},
            {"folder": "a/../../outside"},
            {"folder": "/etc"},
            {"folder": "a//b"},
            {"public_id": "../outside"},
            {"public_id": ".."},
            {"public_id": "a\\b"},
            {"public_id": "a\x00b"},
        ],
    )
    async def test_nothing_leaves_the_directory(
        self, host: MediaHost, make_upload: MakeUpload, tmp_path: Path, place: dict[str, Any]
    ) -> None:
        before = files_outside(tmp_path)

        with pytest.raises(Rejected):
            await host.store(make_upload(**place))

        assert files_outside(tmp_path) == before


def files_outside(directory: Path) -> list[Path]:
    roots = (directory / "media", directory / "sandbox")
    return [path for path in directory.rglob("*") if not any(map(path.is_relative_to, roots))]


class TestLocalDisk:
    async def test_the_file_stands_where_its_address_says(
        self, tmp_path: Path, make_upload: MakeUpload
    ) -> None:
        disk = LocalDisk(tmp_path / "media", "https://cdn.example.com/images/")

        stored = await disk.store(make_upload(folder="ilanlar/Karasu ğ"))

        path = tmp_path / "media" / "ilanlar" / "Karasu ğ" / "ai-7-0a1b2c.webp"
        assert inspect(path.read_bytes()).width == 32
        assert path.stat().st_mode & 0o777 == 0o644
        assert stored.secure_url == (
            "https://cdn.example.com/images/ilanlar/Karasu%20%C4%9F/ai-7-0a1b2c.webp"
        )
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    async def test_a_symbolic_link_leads_nowhere(
        self, tmp_path: Path, make_upload: MakeUpload
    ) -> None:
        media, outside = tmp_path / "media", tmp_path / "outside"
        media.mkdir()
        outside.mkdir()
        (media / "folder").symlink_to(outside)
        (media / "ai-7-0a1b2c.webp").symlink_to(outside / "picture.webp")

        for folder in ("folder", "folder/deeper", None):
            with pytest.raises(Rejected):
                await LocalDisk(media, None).store(make_upload(folder=folder))

        assert list(outside.iterdir()) == []

    async def test_a_folder_needs_a_name(self, tmp_path: Path, make_upload: MakeUpload) -> None:
        with pytest.raises(Rejected):
            await LocalDisk(tmp_path, None).store(make_upload(folder=""))

    async def test_a_damaged_file_in_the_way_is_reported(
        self, tmp_path: Path, make_upload: MakeUpload
    ) -> None:
        (tmp_path / "ai-7-0a1b2c.webp").write_text("not a picture")

        with pytest.raises(Rejected, match="ai-7-0a1b2c"):
            await LocalDisk(tmp_path, None).store(make_upload(folder=None))

    async def test_a_directory_that_cannot_be_made_is_tried_later(
        self, tmp_path: Path, make_upload: MakeUpload
    ) -> None:
        (tmp_path / "media").write_text("a file is in the way")

        with pytest.raises(Retryable, match="media"):
            await LocalDisk(tmp_path / "media", None).store(make_upload())

    async def test_an_overlong_name_is_refused(
        self, tmp_path: Path, make_upload: MakeUpload
    ) -> None:
        with pytest.raises(Rejected, match="too long"):
            await LocalDisk(tmp_path, None).store(make_upload(public_id="a" * 300))


class TestPictures:
    @pytest.mark.parametrize("picture_format", ["gif", "bmp", "tiff"])
    def test_only_the_three_formats_are_pictures(
        self, picture: Picture, picture_format: str
    ) -> None:
        with pytest.raises(ValueError, match="webp, png or jpeg"):
            inspect(picture(picture_format))

    @pytest.mark.parametrize("picture_format", ["webp", "png", "jpeg"])
    def test_half_a_picture_is_none(self, picture: Picture, picture_format: str) -> None:
        whole = picture(picture_format, size=256)
        with pytest.raises(ValueError, match="whole"):
            inspect(whole[: len(whole) // 2])

    @pytest.mark.parametrize("side", [7_000, 12_000, 20_000])
    def test_a_decompression_bomb_is_not_unpacked(self, side: int) -> None:
        file = io.BytesIO()
        Image.new("1", (side, side)).save(file, "png")

        with pytest.raises(ValueError, match="too many"):
            inspect(file.getvalue())
