"""Loop 3: the outbox relay, started and stopped with the application; and the worker's metrics."""

import asyncio

from mode import Service

from pipeline import metrics
from pipeline.wiring import Worker


class Announce(Service):
    """Publishes outcomes and dead letters, at least once."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    async def on_start(self) -> None:
        settings = self._worker.settings
        self._stop_metrics = None
        if settings.metrics_port:
            self._stop_metrics = metrics.serve(
                settings.metrics_host, settings.metrics_port, settings.database_url
            )
        self._loop_task = asyncio.create_task(self._worker.relay.run())

    async def on_stop(self) -> None:
        try:
            self._worker.relay.stop()
            await self._loop_task
        finally:
            if self._stop_metrics is not None:
                await asyncio.to_thread(self._stop_metrics)
            await self._worker.close()
