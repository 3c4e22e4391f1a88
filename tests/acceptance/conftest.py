"""Fixtures: worlds that belong to one test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.acceptance.harness import World

NewWorld = Callable[..., World]


@pytest.fixture
def new_world(
    tmp_path: Path, database_url: str, kafka_bootstrap: str, topic_prefix: str
) -> Iterator[NewWorld]:
    """Makes the test's world, with a sandbox as slow as the test asks for (`latency`)."""
    with ExitStack() as stack:

        def make(latency: float = 0.0) -> World:
            return stack.enter_context(
                World(
                    tmp_path,
                    database_url=database_url,
                    kafka_bootstrap=kafka_bootstrap,
                    prefix=topic_prefix,
                    latency=latency,
                )
            )

        yield make


@pytest.fixture
def world(new_world: NewWorld) -> World:
    """A world whose pictures take no time."""
    return new_world()
