"""Loop 3: the outbox relay, started and stopped with the application."""

import asyncio

from mode import Service

from pipeline.wiring import Worker


class Announce(Service):
    """Publishes outcomes and dead letters, at least once."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    async def on_start(self) -> None:
        self._loop_task = asyncio.create_task(self._worker.relay.run())

    async def on_stop(self) -> None:
        self._worker.relay.stop()
        await self._loop_task
        await self._worker.close()
