"""A Faust agent that passes events through, as its documentation shows: `async for`, `send`.

Values are JSON, which is Faust's default; so is everything else.
"""

import os
import tempfile
from typing import Any

import faust
from faust.types import StreamT

app = faust.App(
    os.environ["BESIDE_GROUP"],
    broker=f"kafka://{os.environ['BESIDE_BOOTSTRAP']}",
    consumer_auto_offset_reset="earliest",
    topic_allow_declare=False,
    topic_disable_leader=True,
    web_enabled=False,
    datadir=tempfile.gettempdir(),
)
source = app.topic(os.environ["BESIDE_INPUT"], key_type=bytes, key_serializer="raw")
target = app.topic(os.environ["BESIDE_OUTPUT"], key_type=bytes, key_serializer="raw")


@app.agent(source)
async def pass_through(stream: StreamT[Any]) -> None:
    async for key, value in stream.items():
        await target.send(key=key, value=value)
