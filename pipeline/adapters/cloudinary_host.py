"""The media host Cloudinary. Uploading again is harmless, so most failures are `Retryable`."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from cloudinary import exceptions, uploader

from pipeline.adapters.cloudinary_account import CloudinaryAccount
from pipeline.errors import Closed, OutsideError, Rejected, Retryable, Throttled
from pipeline.ports import StoredImage, Upload

RATE_LIMIT_DELAY = 60.0  # seconds; the SDK hides the header that would say
_THREADS = 8
_NONSENSE = "the media host's answer is not that of an upload"

# Everything else is `Retryable`: a general error, a timeout, a lost connection, no JSON.
_MEANINGS: dict[type[exceptions.Error], tuple[type[OutsideError], str]] = {
    exceptions.AuthorizationRequired: (Closed, "unauthorized"),
    exceptions.NotAllowed: (Closed, "forbidden"),
    exceptions.BadRequest: (Rejected, "bad_request"),
    exceptions.NotFound: (Rejected, "not_found"),
    exceptions.AlreadyExists: (Rejected, "already_exists"),
}


class CloudinaryHost:
    """A `MediaHost`: the blocking SDK in a few threads of its own."""

    def __init__(
        self,
        *,
        cloudinary_url: str,
        timeout: float = 60.0,
        folder_mode: Literal["dynamic", "fixed"] = "dynamic",
    ) -> None:
        """`timeout` is the longest silence of the host, in seconds.

        In accounts with dynamic folders a folder only sorts the assets; in those with fixed ones
        it becomes part of the public id. Raises `ValueError` for a malformed URL.
        """
        self._account = CloudinaryAccount.parse(cloudinary_url)
        self._timeout = timeout
        self._folder_option = "asset_folder" if folder_mode == "dynamic" else "folder"
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cloudinary")

    async def store(self, upload: Upload) -> StoredImage:
        """Store the bytes unchanged; raises `Retryable`, `Throttled`, `Closed` or `Rejected`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._store, upload)

    async def close(self) -> None:
        """Wait for the uploads in flight, and end the threads."""
        await asyncio.to_thread(self._threads.shutdown)

    def _store(self, upload: Upload) -> StoredImage:
        try:
            answer = uploader.upload(upload.data, **self._options(upload))
        except exceptions.Error as error:
            raise _classify(error, self._account.api_secret) from error
        except (KeyError, TypeError, AttributeError) as error:  # the SDK stumbled over its shape
            raise Retryable("bad_response", _NONSENSE) from error
        return _read(answer)

    def _options(self, upload: Upload) -> dict[str, Any]:
        """One call's options; all that the SDK would else take from the environment is here."""
        account = self._account
        options: dict[str, Any] = {
            "cloud_name": account.cloud_name,
            "api_key": account.api_key,
            "api_secret": account.api_secret,
            "upload_prefix": account.upload_prefix,
            "signature_algorithm": account.signature_algorithm,
            "signature_version": 2,
            "oauth_token": None,
            "upload_preset": None,
            "timeout": self._timeout,
            "resource_type": "image",
            "filename": f"{upload.public_id}.{upload.facts.format}",
            "public_id": upload.public_id,
            "overwrite": False,
            "tags": list(upload.tags),
            "context": {"alt": upload.alt},
        }
        if upload.folder is not None:
            options[self._folder_option] = upload.folder
        return options


def _classify(error: exceptions.Error, secret: str) -> OutsideError:
    message = " ".join(str(error).replace(secret, "[secret]").split())[:500]
    if isinstance(error, exceptions.RateLimited):
        return Throttled("rate_limited", message, delay=RATE_LIMIT_DELAY)
    meaning, code = _MEANINGS.get(type(error), (Retryable, "host_unavailable"))
    return meaning(code, message)


def _read(answer: Any) -> StoredImage:
    try:
        stored = StoredImage(
            public_id=answer["public_id"],
            url=answer["url"],
            secure_url=answer["secure_url"],
            width=answer["width"],
            height=answer["height"],
            format={"jpg": "jpeg"}.get(answer["format"], answer["format"]),  # one word per format
            bytes=answer["bytes"],
        )
    except (KeyError, TypeError) as error:
        raise Retryable("bad_response", _NONSENSE) from error
    return stored
