"""The sandbox's HTTP server: OpenAI's and Cloudinary's protocols on one loopback port."""

import dataclasses
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from sandbox.cloudinary_api import API_KEY, API_SECRET, CLOUD, CloudinaryApi
from sandbox.connection import ResettableProtocol, huge_answer
from sandbox.faults import Fault, Faults, Target, keep_silent
from sandbox.openai_api import OpenAIApi
from sandbox.records import Purchase, Records, StoredAsset
from sandbox.stock import from_stock, to_order


class Sandbox:
    """Sells and stores pictures from `start()` to `stop()`, or inside a `with` block.

    Pictures are files under `directory`. Every picture takes `latency` seconds; with
    `picture_bytes` they come from stock and are that long. Port 0 takes a free one. `faults` may
    be added to at any time, also by `POST /sandbox/faults` from another process, and
    `GET /sandbox/purchases` lists what was sold.
    """

    def __init__(
        self,
        directory: Path,
        *,
        latency: float = 0.0,
        port: int = 0,
        picture_bytes: int | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory.resolve()
        self._latency = latency
        self._draw = to_order if picture_bytes is None else from_stock(picture_bytes)
        self._port = port
        self._records = Records()
        self.faults = Faults()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        """Where the sandbox listens, once it has started: http://127.0.0.1:port."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def openai_base_url(self) -> str:
        """What an OpenAI client takes as its base URL."""
        return f"{self.base_url}/v1"

    @property
    def cloudinary_url(self) -> str:
        """What a Cloudinary client takes as CLOUDINARY_URL."""
        return f"cloudinary://{API_KEY}:{API_SECRET}@{CLOUD}?upload_prefix={self.base_url}"

    @property
    def purchases(self) -> list[Purchase]:
        """Every picture sold, oldest first, also those whose buyer had gone."""
        return self._records.purchases()

    @property
    def uploads(self) -> list[StoredAsset]:
        """Every picture stored by Cloudinary's side."""
        return self._records.assets()

    def requests(self, target: Target) -> int:
        """How many requests for `target` have arrived, whatever their answers."""
        return self._records.requests(target)

    def seconds(self, target: Target) -> float:
        """How long answers to requests for `openai` or `cloudinary` were in the making, all
        together."""
        return self._records.seconds(target)

    def start(self) -> None:
        """Listen; clients may connect as soon as this returns. Raises `OSError` for a taken port.

        The socket is bound and listening before the thread starts, so an early client waits in
        its queue instead of being refused.
        """
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._application(),
            http=ResettableProtocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=1,  # second: a client in a "timeout" fault would hang on
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="sandbox", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; requests in flight have a second to end. Stopping twice is fine."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _application(self) -> Starlette:
        openai = OpenAIApi(
            records=self._records,
            faults=self.faults,
            directory=self._directory,
            base_url=self.base_url,
            latency=self._latency,
            draw=self._draw,
        )
        cloudinary = CloudinaryApi(
            records=self._records,
            faults=self.faults,
            directory=self._directory,
            base_url=self.base_url,
        )
        return Starlette(
            routes=[
                *openai.routes(),
                *cloudinary.routes(),
                Route("/pictures/{path:path}", self._picture),
                Route(f"/{CLOUD}/image/upload/{{version}}/{{path:path}}", self._picture),
                Route("/sandbox/faults", self._add_fault, methods=["POST"]),
                Route("/sandbox/purchases", self._list_purchases),
            ]
        )

    async def _picture(self, request: Request) -> Response:
        """A stored picture, or the fault that waits for a download."""
        self._records.count_request("download")
        fault = self.faults.take("download")
        if fault is not None and fault.kind == "huge_body":
            return huge_answer("image/png")
        if fault is not None and (silence := await keep_silent(fault, request)) is not None:
            return silence
        if fault is not None and fault.kind == "server_error":
            return Response(status_code=500)
        path = (self._directory / request.path_params["path"]).resolve()
        if fault is not None or not path.is_relative_to(self._directory) or not path.is_file():
            return Response(status_code=404)
        return FileResponse(path)

    async def _add_fault(self, request: Request) -> Response:
        try:
            self.faults.add(Fault(**await request.json()))
        except (TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return Response(status_code=201)

    async def _list_purchases(self, request: Request) -> Response:  # noqa: ARG002
        sold = [
            dataclasses.asdict(purchase) | {"at": purchase.at.isoformat()}
            for purchase in self.purchases
        ]
        return JSONResponse(sold)
