"""Loop 3: the outbox relay, started and stopped with the application."""

import asyncio

from mode import Service

from pipeline.wiring import Worker


class Announce(Service):
    """Publishes outcomes and dead letters, at least once."""

    worker: Worker

    @classmethod
    def of(cls, worker: Worker) -> type["Announce"]:
        """The service of one worker (Faust makes the instance itself)."""
        return type("Announce", (cls,), {"worker": worker, "abstract": False})

    async def on_start(self) -> None:
        self._loop_task = asyncio.create_task(self.worker.relay.run())

    async def on_stop(self) -> None:
        self.worker.relay.stop()
        await self._loop_task
        await self.worker.close()
