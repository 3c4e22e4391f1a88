"""The image model behind OpenAI's Images API, or a server that speaks it."""

import asyncio
from typing import Any

import httpx2
import openai

from pipeline.adapters.openai_answer import Answer, read_answer
from pipeline.adapters.openai_errors import AnswerTooLarge, classify
from pipeline.adapters.pictures import inspect
from pipeline.errors import OutcomeUnknown
from pipeline.ports import GeneratedImage, ImageCall

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DOWNLOAD_TRIES = 3
_DOWNLOAD_PAUSE = 0.5  # seconds before the second try, twice as many before the third
_CONNECT_TIMEOUT = 5.0


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
        try:
            async with asyncio.timeout(self._timeout):
                answer, data, request_id = await self._buy(call)
        except TimeoutError as error:
            message = f"the image model took longer than {self._timeout:g} s"
            raise OutcomeUnknown("timeout", message) from error
        # The bytes are here and paid for: no clock runs any more.
        try:
            facts = await asyncio.to_thread(inspect, data)
        except ValueError as error:
            raise OutcomeUnknown("bad_response", str(error), request_id=request_id) from error
        return GeneratedImage(data, facts, answer.usage, answer.revised_prompt, request_id)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _buy(self, call: ImageCall) -> tuple[Answer, bytes, str | None]:
        """The answer, the picture's bytes, and the provider's id of the request."""
        try:
            raw = await self._client.images.with_raw_response.generate(**_parameters(call))
        except openai.APIError as error:
            raise classify(error, api_key=self._api_key) from error
        request_id = raw.headers.get("x-request-id")
        try:
            answer = await asyncio.to_thread(read_answer, raw.content)
        except ValueError as error:
            raise OutcomeUnknown("bad_response", str(error), request_id=request_id) from error
        return answer, await self._data(answer, request_id), request_id

    async def _data(self, answer: Answer, request_id: str | None) -> bytes:
        """The picture's bytes, fetched at once where the answer has only an address (it expires).

        The picture is already paid for, so a broken download is tried again.
        """
        if answer.data is not None:
            return answer.data
        assert answer.url is not None
        reason = ""
        for attempt in range(DOWNLOAD_TRIES):
            if attempt:
                await asyncio.sleep(_DOWNLOAD_PAUSE * attempt)
            try:
                response = await self._http.get(answer.url, follow_redirects=True)
                response.raise_for_status()
                return response.content
            except httpx2.HTTPStatusError as error:
                reason = f"status {error.response.status_code}"
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                reason = type(error).__name__
        message = f"the picture could not be downloaded ({reason})"
        raise OutcomeUnknown("download_failed", message, request_id=request_id)


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
        super().__init__(
            timeout=httpx2.Timeout(timeout, connect=min(_CONNECT_TIMEOUT, timeout)),
            limits=httpx2.Limits(max_keepalive_connections=0),
        )
        self._max_bytes = max_bytes

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send, and read the whole body; raises `AnswerTooLarge` for one that is too long."""
        response = await super().send(request, **(options | {"stream": True}))
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > self._max_bytes:
                    raise AnswerTooLarge(f"more than {self._max_bytes} bytes", request=request)
        finally:
            await response.aclose()
        headers = response.headers.copy()
        for name in ("content-encoding", "transfer-encoding", "content-length"):
            headers.pop(name, None)  # they describe the body before it was decoded
        return httpx2.Response(
            response.status_code, headers=headers, content=bytes(body), request=request
        )
