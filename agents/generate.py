"""Loop 2: the worker's generator, started and stopped with the application."""

import asyncio

from mode import Service

from pipeline.wiring import Worker


class Generate(Service):
    """Buys pictures beside the stream, never inside it."""

    worker: Worker

    @classmethod
    def of(cls, worker: Worker) -> type["Generate"]:
        """The service of one worker (Faust makes the instance itself)."""
        return type("Generate", (cls,), {"worker": worker, "abstract": False})

    async def on_start(self) -> None:
        self._loop_task = asyncio.create_task(self.worker.generator.run())

    async def on_stop(self) -> None:
        """Pictures in hand are being paid: they are seen to the end before the worker leaves."""
        await self.worker.generator.stop()
        await self._loop_task
        self.worker.relay.wake.set()
