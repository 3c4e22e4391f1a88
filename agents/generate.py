"""Loop 2: the worker's generator, started and stopped with the application."""

import asyncio

from mode import Service

from pipeline import notices
from pipeline.wiring import Worker


class Generate(Service):
    """Buys pictures beside the stream, never inside it."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    async def on_start(self) -> None:
        generator, settings = self._worker.generator, self._worker.settings
        self._loop_task = asyncio.create_task(generator.run())
        listening = notices.listen(settings.database_url, "imagepipe_queued", generator.wake)
        self._listen_task = asyncio.create_task(listening)

    async def on_stop(self) -> None:
        """Pictures in hand are being paid: they are seen to the end before the worker leaves."""
        self._listen_task.cancel()
        await asyncio.wait({self._listen_task})
        await self._worker.generator.stop()
        await self._loop_task
        self._worker.relay.wake.set()
