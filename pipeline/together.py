"""Work that is done for several at once, as many as have come while others were being served."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Calls `work` with up to `most` items, in up to `lanes` tasks; nobody waits for company."""

    def __init__(
        self, work: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, lanes: int, most: int
    ) -> None:
        """`work` returns a result for each of its items, in their order."""
        self._work = work
        self._free_lanes = lanes
        self._most = most
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, item: T) -> R:
        """The item's result; raises whatever `work` raised for it and its companions."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._free_lanes:
            self._free_lanes -= 1
            # What is said there is not said about whoever happened to come first.
            task = asyncio.create_task(self._serve(), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _serve(self) -> None:
        try:
            while self._waiting:
                size = min(self._most, len(self._waiting))
                await self._serve_some([self._waiting.popleft() for _ in range(size)])
        finally:
            self._free_lanes += 1

    async def _serve_some(self, some: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._work([item for item, _ in some])
        except Exception as error:
            for _, future in some:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in zip(some, results, strict=True):
                if not future.done():
                    future.set_result(result)
