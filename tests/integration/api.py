"""The HTTP API as the tests see it: a server on a free port, and a client."""

import asyncio
from types import TracebackType
from typing import Any, Self

import httpx2
import uvicorn

from pipeline import wiring
from pipeline.api import server
from pipeline.api.app import create_app
from pipeline.api.protocol import BoundedHttp
from pipeline.settings import load
from schemas.examples import LISTING

PATH = "/api/ai/generate-image"
ANSWER = {
    "success",
    "cached",
    "public_id",
    "url",
    "width",
    "height",
    "format",
    "media_asset_id",
    "revised_prompt",
    "cost",
}


def listing(title: str = "Modern Daire", **fields: Any) -> dict[str, Any]:
    """The specification's example, with another title."""
    return LISTING | {"context": {"title": title}} | fields


class Api:
    """One server in this process; `values` are settings."""

    def __init__(self, database_url: str, /, **values: object) -> None:
        settings = load(
            _env_file=None,
            **{
                "database_url": database_url,
                "kafka_bootstrap_servers": "127.0.0.1:1",
                **values,
            },
        )
        self.parts = wiring.api(settings)
        self._socket = server.bind("127.0.0.1", 0)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            create_app(self.parts),
            http=BoundedHttp,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        self._server = uvicorn.Server(config)

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._server._serve([self._socket]))
        self.client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        while not self._server.started:  # noqa: ASYNC110 (nobody tells us)
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.client.aclose()
        self.parts.stopping.set()
        self._server.should_exit = True
        await self._serving

    async def post(self, body: Any, *, query: str = "", **headers: str) -> httpx2.Response:
        """POST a request; a header's name is written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(PATH + query, json=body, headers=named)

    async def get(self, path: str = PATH, **headers: str) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(path, headers=named)
