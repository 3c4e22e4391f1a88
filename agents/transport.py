"""Faust's Kafka transport, without four tasks for every event.

Faust hands each event to its stream under a wait for "handed over, suspended, stopped or crashed".
Handing over is done at once unless a buffer is full: then there is nothing to wait for.
"""

from collections.abc import Awaitable, Coroutine, Generator
from typing import Any

from faust.transport.drivers import aiokafka
from mode.services import WaitResults


class Consumer(aiokafka.Consumer):
    """A consumer that waits only for what is not done at once."""

    async def wait_first(self, *coros: Any, timeout: Any = None) -> WaitResults:  # noqa: ASYNC109
        first, *others = coros
        if timeout is not None or not isinstance(first, Coroutine):
            return await super().wait_first(*coros, timeout=timeout)
        try:
            waits_for = first.send(None)
        except StopIteration as done:
            for other in others:
                other.close()
            return WaitResults([first], [done.value], False)
        return await super().wait_first(_Begun(first, waits_for), *others)


class _Begun(Awaitable[Any]):
    """The rest of a coroutine that has been started, and waits for something by now."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    answer = yield waits_for
                except BaseException as error:
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(answer)
        except StopIteration as done:
            return done.value


class Transport(aiokafka.Transport):
    """Faust's transport with that consumer."""

    Consumer = Consumer
