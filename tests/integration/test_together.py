"""Work done for several at once: nobody waits for company, and trouble meets only companions."""

import asyncio
from collections.abc import Sequence

import pytest

from pipeline.together import Together


class Work:
    """Doubles numbers, when it is let; it cannot double 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        await self.go.wait()
        if 13 in numbers:
            raise ValueError("13")
        return [2 * number for number in numbers]


async def test_what_comes_while_all_lanes_are_busy_goes_together() -> None:
    work = Work()
    double = Together(work, lanes=2, most=3)
    asked = [asyncio.create_task(double(number)) for number in range(7)]
    await asyncio.sleep(0.01)
    assert work.batches == [[0, 1, 2], [3, 4, 5]]

    work.go.set()

    assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8, 10, 12]
    assert work.batches == [[0, 1, 2], [3, 4, 5], [6]]


async def test_one_alone_is_served_at_once() -> None:
    work = Work()
    work.go.set()
    double = Together(work, lanes=1, most=3)

    assert [await double(1), await double(2)] == [2, 4]
    assert work.batches == [[1], [2]]


async def test_trouble_is_told_to_the_companions_and_nobody_else() -> None:
    work = Work()
    double = Together(work, lanes=1, most=2)
    asked = [asyncio.create_task(double(number)) for number in (1, 13, 3)]
    work.go.set()

    first, second, third = await asyncio.gather(*asked, return_exceptions=True)

    assert isinstance(first, ValueError)
    assert isinstance(second, ValueError)
    assert third == 6


async def test_who_leaves_does_not_disturb_the_others() -> None:
    work = Work()
    double = Together(work, lanes=1, most=2)
    asked = [asyncio.create_task(double(number)) for number in (1, 2)]
    await asyncio.sleep(0.01)
    asked[0].cancel()
    work.go.set()

    assert await asked[1] == 4
    with pytest.raises(asyncio.CancelledError):
        await asked[0]
