"""The image model behind OpenAI's Images API, or a server that speaks it."""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.request import getproxies

import httpx2
import openai

from pipeline.adapters.openai_answer import Answer, read_answer
from pipeline.adapters.openai_errors import AnswerTooLarge, classify
from pipeline.adapters.pictures import inspect
from pipeline.errors import OutcomeUnknown
from pipeline.ports import GeneratedImage, ImageCall, ImageFacts

T = TypeVar("T")

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DOWNLOAD_TRIES = 3
_DOWNLOAD_PAUSE = 0.5  # seconds before the second try, twice as many before the third
_CONNECT_TIMEOUT = 5.0
_SOCKET_OPTIONS = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)]
"""What has arrived and not been asked for waits in the system, where it holds the sender back,
not in our memory: the event loop takes all that it finds there, for each of hundreds of answers."""
_READERS = 2  # threads: decoding hardly runs in parallel, and takes memory


class OpenAIImages:
    """An `ImageModel`: one call is one request; nothing below it tries again by itself."""

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str | None = None,
        timeout: float = 360.0,
        max_bytes: int = 64 * 2**20,
    ) -> None:
        """`timeout` (seconds) bounds a whole `generate()`, `max_bytes` every body received.

        Raises `ValueError` for an empty key or an address that is not http or https.
        """
        if not api_key.strip():
            raise ValueError("the API key of the image model is empty")
        address = base_url or DEFAULT_BASE_URL
        if not address.startswith(("http://", "https://")):
            raise ValueError(f"the image model's base URL must be http or https: {address!r}")
        self._api_key = api_key
        self._timeout = timeout
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="pictures")
        self._http = _BoundedClient(max_bytes, timeout)
        self._client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=address,
            max_retries=0,
            timeout=self._http.timeout,
            http_client=self._http,
        )

    async def generate(self, call: ImageCall) -> GeneratedImage:
        """Buy one picture.

        Raises `Retryable`, `Throttled`, `Closed`, `Rejected` or `OutcomeUnknown`.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(deadline):
                body, request_id = await self._buy(call)
            # What is here is paid for: no clock runs while it is read.
            answer, facts = await self._read(_read_and_inspect, body, request_id)
            data = answer.data
            if answer.url is not None:
                async with asyncio.timeout_at(deadline):
                    data = await self._download(answer.url, request_id)
                facts = await self._read(inspect, data, request_id)
        except TimeoutError as error:
            message = f"the image model took longer than {self._timeout:g} s"
            raise OutcomeUnknown("timeout", message) from error
        assert data is not None
        assert facts is not None
        return GeneratedImage(data, facts, answer.usage, answer.revised_prompt, request_id)

    async def close(self) -> None:
        """Close the connections, and end the threads."""
        await self._client.close()
        self._readers.shutdown(wait=False)

    async def _buy(self, call: ImageCall) -> tuple[bytes, str | None]:
        """The answer's body, and the provider's id of the request."""
        try:
            raw = await self._client.images.with_raw_response.generate(**_parameters(call))
        except openai.APIError as error:
            raise classify(error, api_key=self._api_key) from error
        return raw.content, raw.headers.get("x-request-id")

    async def _read(self, read: Callable[[bytes], T], received: bytes, request_id: str | None) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._readers, read, received)
        except ValueError as error:
            raise OutcomeUnknown("bad_response", str(error), request_id=request_id) from error

    async def _download(self, url: str, request_id: str | None) -> bytes:
        """A picture of which the answer has only the address, which expires: fetched at once.

        The picture is already paid for, so a broken download is tried again.
        """
        reason = ""
        for attempt in range(DOWNLOAD_TRIES):
            if attempt:
                await asyncio.sleep(_DOWNLOAD_PAUSE * attempt)
            try:
                response = await self._http.get(url, follow_redirects=True)
                response.raise_for_status()
                return response.content
            except httpx2.HTTPStatusError as error:
                reason = f"status {error.response.status_code}"
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                reason = type(error).__name__
        message = f"the picture could not be downloaded ({reason})"
        raise OutcomeUnknown("download_failed", message, request_id=request_id)


def _read_and_inspect(body: bytes) -> tuple[Answer, ImageFacts | None]:
    """An answer, and the facts of the picture in it; raises `ValueError`."""
    answer = read_answer(body)
    return answer, None if answer.data is None else inspect(answer.data)


def _parameters(call: ImageCall) -> dict[str, Any]:
    """Exactly what is hashed is sent: a parameter that is None is left out."""
    parameters: dict[str, Any] = {
        "model": call.model,
        "prompt": call.prompt,
        "size": call.size,
        "quality": call.quality,
        "n": 1,
    }
    if call.style is not None:
        parameters["style"] = call.style
    if call.output_format is not None:
        parameters["output_format"] = call.output_format
    return parameters


class _BoundedClient(httpx2.AsyncClient):
    """An HTTP client that keeps at most `max_bytes` of any body in memory, errors included.

    It follows no redirects by itself and opens a connection per request: an idle one that the
    server is just closing would look like a connection lost after sending, and hold money.
    """

    def __init__(self, max_bytes: int, timeout: float) -> None:
        limits = httpx2.Limits(max_keepalive_connections=0)
        own = httpx2.AsyncHTTPTransport(limits=limits, socket_options=_SOCKET_OPTIONS)
        super().__init__(
            timeout=httpx2.Timeout(timeout, connect=min(_CONNECT_TIMEOUT, timeout)),
            limits=limits,
            transport=None if getproxies() else own,  # one that is given goes past every proxy
        )
        self._max_bytes = max_bytes

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send, and read the whole body; raises `AnswerTooLarge` for one that is too long."""
        response = await super().send(request, **(options | {"stream": True}))
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in response.aiter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if size > self._max_bytes:
                    raise AnswerTooLarge(f"more than {self._max_bytes} bytes", request=request)
        finally:
            await response.aclose()
        headers = response.headers.copy()
        for name in ("content-encoding", "transfer-encoding", "content-length"):
            headers.pop(name, None)  # they describe the body before it was decoded
        return httpx2.Response(
            response.status_code, headers=headers, content=b"".join(chunks), request=request
        )
