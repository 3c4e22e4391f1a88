"""Cloudinary's side of the sandbox: signed uploads, kept as files."""

import asyncio
import hashlib
import hmac
import io
import re
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sandbox.faults import Faults, keep_silent
from sandbox.multipart import read_form
from sandbox.records import Records, StoredAsset
from sandbox.wire_errors import CLOUDINARY_ERRORS, CloudinaryError, Refused

CLOUD, API_KEY, API_SECRET = "sandbox", "sandbox-key", "sandbox-secret"

_SIGNATURE_LIFE = 3600  # seconds
_UNSIGNED = frozenset({"file", "api_key", "signature", "cloud_name", "resource_type"})
_ALGORITHMS = {40: hashlib.sha1, 64: hashlib.sha256}  # by the digest's length in hex
_FORMATS = {"PNG": "png", "WEBP": "webp", "JPEG": "jpg"}
_SEGMENT = re.compile(r"[^\x00-\x1f?&#\\%<>+]{1,255}")


class CloudinaryApi:
    """Keeps uploads in `<directory>/<folder?>/<public_id>.<format>`."""

    def __init__(self, *, records: Records, faults: Faults, directory: Path, base_url: str) -> None:
        self._records = records
        self._faults = faults
        self._directory = directory
        self._base_url = base_url
        self._facts: dict[str, tuple[str, int, int]] = {}  # by the bytes' MD5

    def routes(self) -> list[Route]:
        """The route that an uploading client calls."""
        return [Route("/v1_1/{cloud}/image/upload", self.upload, methods=["POST"])]

    async def upload(self, request: Request) -> Response:
        """Keep one picture, or meet the fault that waits for it."""
        with self._records.serving("cloudinary"):
            return await self._answer(request)

    async def _answer(self, request: Request) -> Response:
        fault = self._faults.take("cloudinary")
        try:
            if fault is None:
                return await self._keep(request)
            if fault.kind in CLOUDINARY_ERRORS:
                raise Refused(CLOUDINARY_ERRORS[fault.kind])
        except Refused as refused:
            return refused.error.answer()
        return await keep_silent(fault, request) or HTMLResponse("<html>A proxy's page</html>")

    async def _keep(self, request: Request) -> Response:
        try:
            form = read_form(request.headers.get("content-type", ""), await request.body())
        except ValueError as error:
            raise _bad_request(str(error)) from error
        _check_signature(request.path_params["cloud"], form.fields)
        if not form.file:
            raise _bad_request("Missing required parameter - file")
        asset_folder, public_id = form.fields.get("asset_folder"), _public_id(form.fields)
        existing = self._records.asset(public_id)
        if existing is not None and form.fields.get("overwrite", "true") in ("false", "0"):
            return JSONResponse(self._described(existing) | {"existing": True})
        etag = hashlib.md5(form.file, usedforsecurity=False).hexdigest()
        if etag not in self._facts:  # the same bytes come again where pictures are from stock
            self._facts[etag] = _inspect(form.file)
        word, width, height = self._facts[etag]
        path = self._path("/".join(filter(None, (asset_folder, public_id))), word)
        await asyncio.to_thread(_write, path, form.file)
        asset = StoredAsset(
            public_id=public_id,
            path=path.relative_to(self._directory).as_posix(),
            asset_folder=asset_folder,
            version=int(time.time()),
            format=word,
            width=width,
            height=height,
            bytes=len(form.file),
            etag=etag,
            tags=tuple(filter(None, form.fields.get("tags", "").split(","))),
            context=_read_context(form.fields.get("context", "")),
            at=datetime.now(UTC),
        )
        self._records.add_asset(asset)
        return JSONResponse(self._described(asset))

    def _path(self, name: str, word: str) -> Path:
        """The file for a name that may hold slashes; refuses one outside the directory."""
        for segment in name.split("/"):
            if segment in (".", "..") or not _SEGMENT.fullmatch(segment):
                raise _bad_request(f"Invalid public_id or folder: {name!r}")
        path = (self._directory / f"{name}.{word}").resolve()
        if not path.is_relative_to(self._directory):
            raise _bad_request(f"Invalid public_id or folder: {name!r}")
        return path

    def _described(self, asset: StoredAsset) -> dict[str, Any]:
        url = f"{self._base_url}/{CLOUD}/image/upload/v{asset.version}/{asset.path}"
        return {
            "asset_id": uuid.uuid5(uuid.NAMESPACE_URL, asset.public_id).hex,
            "public_id": asset.public_id,
            "version": asset.version,
            "width": asset.width,
            "height": asset.height,
            "format": asset.format,
            "resource_type": "image",
            "type": "upload",
            "created_at": asset.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tags": list(asset.tags),
            "bytes": asset.bytes,
            "etag": asset.etag,
            "placeholder": False,
            "url": url,
            "secure_url": url,
            "context": {"custom": dict(asset.context)},
            **({"asset_folder": asset.asset_folder} if asset.asset_folder else {}),
        }


def _check_signature(cloud: str, fields: Mapping[str, str]) -> None:
    """Refuse everything but a fresh request, signed with the sandbox's secret."""
    if cloud != CLOUD:
        raise Refused(CloudinaryError(401, f"Invalid cloud_name {cloud}"))
    if "signature" not in fields or not fields.get("timestamp", "").isdecimal():
        raise _bad_request("The request is not signed: signature and timestamp are required")
    if fields.get("api_key") != API_KEY:
        raise Refused(CLOUDINARY_ERRORS["unauthorized"])
    if abs(time.time() - int(fields["timestamp"])) > _SIGNATURE_LIFE:
        raise _bad_request("Stale request: the timestamp is more than one hour off")
    signed = sorted(
        f"{name}={value}".replace("&", "%26")
        for name, value in fields.items()
        if name not in _UNSIGNED and value
    )
    algorithm = _ALGORITHMS.get(len(fields["signature"]), hashlib.sha1)
    expected = algorithm(("&".join(signed) + API_SECRET).encode()).hexdigest()
    if not hmac.compare_digest(expected.encode(), fields["signature"].encode()):
        raise Refused(CloudinaryError(401, f"Invalid Signature. String to sign: {signed}"))


def _public_id(fields: Mapping[str, str]) -> str:
    public_id = fields.get("public_id") or uuid.uuid4().hex[:20]
    return "/".join(filter(None, (fields.get("folder"), public_id)))


def _inspect(data: bytes) -> tuple[str, int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=list(_FORMATS)) as picture:
            picture.load()
            return _FORMATS[str(picture.format)], picture.width, picture.height
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _bad_request("Invalid image file") from error


def _write(path: Path, data: bytes) -> None:
    """Write a whole file or none, so that a reader never sees half of a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}")
    draft.write_bytes(data)
    draft.replace(path)


def _read_context(text: str) -> dict[str, str]:
    r"""Key=value pairs separated by |, where \| and \= are plain characters."""
    pairs = re.findall(r"((?:\\.|[^|=\\])+)=((?:\\.|[^|\\])*)", text, re.DOTALL)
    return {key: re.sub(r"\\([|=])", r"\1", value) for key, value in pairs}


def _bad_request(message: str) -> Refused:
    return Refused(CloudinaryError(400, message))
