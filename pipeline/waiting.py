"""Those who wait for a picture in this process, without a connection each and without polling.

One query answers all of them whenever some request has been finished (`pipeline.notices`), and
every few seconds in case a notice got lost. As long as somebody waits for a request it counts as
attended (`pipeline.attendance`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline import attendance, idempotency, notices, results
from pipeline.database import is_transient
from pipeline.results import Result
from pipeline.rules.lifecycle import RequestState

log = structlog.get_logger()

LOOK_AFTER = 2.0  # seconds between looks without a notice
ATTEND_AFTER = attendance.ABSENT_FOR / 3  # seconds
TIDY_AFTER = 600.0  # seconds


class Waiters:
    """Futures of results, by request."""

    def __init__(self, engine: AsyncEngine, database_url: str) -> None:
        self._engine = engine
        self._database_url = database_url
        self._futures: dict[UUID, set[asyncio.Future[Result]]] = {}
        self._wake = asyncio.Event()

    async def close(self) -> None:
        await self._engine.dispose()

    async def run(self) -> None:
        """Serve those who wait, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(
                notices.listen(self._database_url, "imagepipe_finished", self._wake.set)
            )
            group.create_task(self._every(LOOK_AFTER, self._look, self._wake))
            group.create_task(self._every(ATTEND_AFTER, self._attend))
            group.create_task(self._every(TIDY_AFTER, self._tidy))

    @contextmanager
    def expecting(self, request_id: UUID) -> Iterator[asyncio.Future[Result]]:
        """The result of a recorded request, as soon as there is one; attended meanwhile."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(request_id, set()).add(future)
        self._wake.set()  # it may have been finished before anybody listened
        try:
            yield future
        finally:
            future.cancel()
            waiting = self._futures[request_id]
            waiting.discard(future)
            if not waiting:
                del self._futures[request_id]

    async def _every(
        self, seconds: float, do: Callable[[], Awaitable[None]], wake: asyncio.Event | None = None
    ) -> None:
        """Do it again and again; a database that is away is waited for."""
        event = wake or asyncio.Event()
        while True:
            try:
                async with asyncio.timeout(seconds):
                    await event.wait()
            except TimeoutError:
                pass
            event.clear()
            try:
                await do()
            except Exception as error:  # whoever waits would wait in vain from then on
                known = isinstance(error, SQLAlchemyError) and is_transient(error)
                log.warning("looking after those who wait failed", exc_info=not known)
                await asyncio.sleep(1)

    async def _look(self) -> None:
        if not self._futures:
            return
        async with self._engine.connect() as connection:
            found = await results.read(connection, list(self._futures))
        for id_, result in found.items():
            if result.state is not RequestState.WAITING:
                for future in self._futures.get(id_, ()):
                    if not future.done():
                        future.set_result(result)

    async def _attend(self) -> None:
        if self._futures:
            async with self._engine.begin() as connection:
                await attendance.still_there(connection, list(self._futures))

    async def _tidy(self) -> None:
        async with self._engine.begin() as connection:
            await idempotency.forget_old(connection)
