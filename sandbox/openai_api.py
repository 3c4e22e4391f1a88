"""OpenAI's side of the sandbox: `/v1/images/generations` and `/v1/models`."""

import asyncio
import base64
import json
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sandbox.connection import HalfAnswer, huge_answer, large_answer
from sandbox.faults import Fault, Faults, keep_silent
from sandbox.models import MODELS, Order, read_order, usage
from sandbox.records import Purchase, Records
from sandbox.stock import Draw, Picture
from sandbox.wire_errors import OPENAI_ERRORS, Refused, retry_headers

GENERATED = "_generated"  # the folder of pictures that are answered by url

_PLACE = "*base64*"  # of the picture in an answer: base64 is JSON already, and long

_ECHOES = ("unauthorized", "echo")  # errors that quote the key they were sent

_BAD_DATA: dict[str, list[dict[str, str]]] = {
    "no_data": [],
    "wrong_base64": [{"b64_json": "*not base64*"}],
    "not_a_picture": [{"b64_json": base64.b64encode(b"a text, not a picture").decode()}],
}


class OpenAIApi:
    """Draws what it is asked for, after `latency` seconds, and keeps the bill."""

    def __init__(
        self,
        *,
        records: Records,
        faults: Faults,
        directory: Path,
        base_url: str,
        latency: float,
        draw: Draw,
    ) -> None:
        self._records = records
        self._faults = faults
        self._directory = directory
        self._base_url = base_url
        self._latency = latency
        self._draw = draw

    def routes(self) -> list[Route]:
        """The routes that an OpenAI client calls."""
        return [
            Route("/v1/images/generations", self.generate, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
        ]

    async def models(self, request: Request) -> Response:
        """The models on offer, with the day on which each is shut down where there is one."""
        if not _key(request):
            return OPENAI_ERRORS["unauthorized"].answer()
        listed = [
            {"id": name, "object": "model", "shutdown_date": model.shutdown_date}
            for name, model in MODELS.items()
        ]
        return JSONResponse({"object": "list", "data": listed})

    async def generate(self, request: Request) -> Response:
        """Sell one picture, or meet the fault that waits for this prompt."""
        with self._records.serving("openai"):
            try:
                answer = await self._answer(request)
            except Refused as refused:
                answer = refused.error.answer()
        answer.headers["x-request-id"] = f"req_{uuid.uuid4().hex}"
        return answer

    async def _answer(self, request: Request) -> Response:
        key = _key(request)
        if not key:
            raise Refused(OPENAI_ERRORS["unauthorized"])
        try:
            body = json.loads(await request.body())
        except ValueError:
            body = None
        prompt = body.get("prompt") if isinstance(body, dict) else None
        fault = self._faults.take("openai", prompt if isinstance(prompt, str) else "")
        if fault is not None and (refusal := await _refuse(fault, request, key)) is not None:
            return refusal
        order = read_order(body)
        await asyncio.sleep(self._latency)
        shrink = 2 if fault is not None and fault.kind == "other_dimensions" else 1
        picture = await asyncio.to_thread(
            self._draw,
            order.prompt,
            order.width // shrink,
            order.height // shrink,
            order.output_format,
        )
        self._bill(order, picture.data)
        return self._deliver(order, picture, fault)

    def _bill(self, order: Order, picture: bytes) -> None:
        self._records.add_purchase(
            Purchase(
                prompt=order.prompt,
                model=order.name,
                size=order.size,
                quality=order.quality,
                output_format=order.output_format,
                style=order.style,
                at=datetime.now(UTC),
                size_bytes=len(picture),
            )
        )

    def _deliver(self, order: Order, picture: Picture, fault: Fault | None) -> Response:
        kind = fault.kind if fault is not None else None
        entry: dict[str, Any] = {}
        if order.by_url or kind == "url":
            entry["url"] = self._keep(picture.data, order.output_format)
        else:
            entry["b64_json"] = _PLACE
        if order.style is not None:
            entry["revised_prompt"] = f"{order.prompt}, {order.style} style"
        answer: dict[str, Any] = {"created": int(time.time()), "data": [entry]}
        if (counted := usage(order)) is not None:
            answer |= {"size": order.size, "quality": order.quality}
            answer |= {"output_format": order.output_format, "background": "opaque"}
            if kind != "no_usage":
                answer["usage"] = counted
        body = json.dumps(answer).encode()
        if "b64_json" in entry:  # it stands before anything that a prompt may say
            body = body.replace(_PLACE.encode(), picture.base64, 1)
        sort = HalfAnswer if kind == "reset_mid_body" else Response
        return sort(body, media_type="application/json")

    def _keep(self, picture: bytes, output_format: str) -> str:
        name = f"{uuid.uuid4().hex}.{output_format}"
        folder = self._directory / GENERATED
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(picture)
        return f"{self._base_url}/pictures/{GENERATED}/{name}"


def _key(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


async def _refuse(fault: Fault, request: Request, key: str) -> Response | None:
    """The answer of a fault that leaves no picture; None where there is a picture all the same."""
    if fault.kind in OPENAI_ERRORS:
        error = OPENAI_ERRORS[fault.kind]
        if fault.kind in _ECHOES:  # as the real one does with a part of the key
            error = replace(error, message=f"{error.message} Given: {key}")
        return error.answer(retry_headers(fault.kind, fault.retry_after))
    if fault.kind in _BAD_DATA:
        return JSONResponse({"created": 0, "data": _BAD_DATA[fault.kind]})
    if fault.kind == "html":
        return HTMLResponse("<html><body>A proxy's page</body></html>")
    if fault.kind == "large_body":
        return large_answer()
    if fault.kind == "huge_body":
        return huge_answer("application/json")
    return await keep_silent(fault, request)
