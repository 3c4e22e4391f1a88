"""The media host that is a directory: for trials, and behind any web server."""

import asyncio
import errno
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import quote

from pipeline.adapters.pictures import inspect
from pipeline.errors import OutsideError, Rejected, Retryable
from pipeline.ports import StoredImage, Upload

_NAME = re.compile(r"[^\x00-\x1f/\\]+")


class LocalDisk:
    """A `MediaHost`: a picture is `<directory>/<folder>/<public_id>.<format>`, whole or absent."""

    def __init__(self, directory: Path, base_url: str | None = None) -> None:
        """Its addresses are `base_url`/folder/file, or file:// ones without a `base_url`."""
        self._directory = directory
        self._base_url = base_url.rstrip("/") if base_url else None

    async def store(self, upload: Upload) -> StoredImage:
        """Store the bytes unchanged; raises `Retryable` or `Rejected`.

        A file that is already there stays as it is, and the answer describes it.
        """
        return await asyncio.to_thread(self._store, upload)

    async def close(self) -> None:
        """There is nothing to close."""

    def _store(self, upload: Upload) -> StoredImage:
        try:
            path = self._path(upload)
            if not path.exists():
                _write(path, upload.data)
            facts = inspect(path.read_bytes())
        except OSError as error:
            raise _classify(error, self._directory) from error
        except ValueError as error:
            raise Rejected("occupied", f"the file of {upload.public_id!r}: {error}") from error
        url = self._url(path)
        return StoredImage(
            public_id=upload.public_id,
            url=url,
            secure_url=url,
            width=facts.width,
            height=facts.height,
            format=facts.format,
            bytes=facts.bytes,
        )

    def _path(self, upload: Upload) -> Path:
        """The picture's file, its folders made. Neither `..` nor a symbolic link leads outside."""
        self._directory.mkdir(parents=True, exist_ok=True)
        root = self._directory.resolve()
        folders = upload.folder.split("/") if upload.folder is not None else []
        names = [*folders, f"{upload.public_id}.{upload.facts.format}"]
        for name in (*folders, upload.public_id):
            if name in (".", "..") or not _NAME.fullmatch(name):
                raise Rejected("bad_path", f"{name!r} cannot be the name of a folder or a file")
        path = root.joinpath(*names).resolve()
        if not path.is_relative_to(root):
            raise Rejected("bad_path", f"{'/'.join(names)!r} leads outside the media directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _url(self, path: Path) -> str:
        if self._base_url is None:
            return path.as_uri()
        return f"{self._base_url}/{quote(path.relative_to(self._directory.resolve()).as_posix())}"


def _write(path: Path, data: bytes) -> None:
    """Put the file in place in one step, and be sure that it survives a power failure."""
    descriptor, draft = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(0o644)  # mkstemp's 0600 would keep it from a web server
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _classify(error: OSError, directory: Path) -> OutsideError:
    reason = error.strerror or type(error).__name__
    match error.errno:
        case errno.ENAMETOOLONG:
            return Rejected("bad_path", "the name of the folder or of the picture is too long")
        case errno.ENOSPC | errno.EDQUOT:
            return Retryable("disk_full", f"there is no room left in {directory}: {reason}")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Retryable("no_permission", f"{directory} cannot be written to: {reason}")
        case _:
            return Retryable("disk_error", f"{directory}: {reason}")
