"""A Faust agent that passes events through, as its documentation shows: `async for`, `send`.

Values are raw bytes on both sides, so no time goes into JSON; everything else is Faust's default.
"""

import os
import tempfile

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
source = app.topic(os.environ["BESIDE_INPUT"], value_type=bytes, value_serializer="raw")
target = app.topic(os.environ["BESIDE_OUTPUT"], value_type=bytes, value_serializer="raw")


@app.agent(source)
async def pass_through(stream: StreamT[bytes]) -> None:
    async for event in stream.events():
        await target.send(key=event.key, value=event.value, headers=event.headers)
