"""What the integration tests share: the pipeline's steps, a sandbox, generators that use it, and
the HTTP API on a port of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline import notices
from pipeline.adapters.cloudinary_host import CloudinaryHost
from pipeline.adapters.openai_images import OpenAIImages
from pipeline.generation import Generator, Work
from sandbox.server import Sandbox
from tests.integration.api import Api
from tests.integration.builders import CATALOGUE, PATIENCE, TOPICS, Steps

MakeGenerator = Callable[..., Generator]
StartApi = Callable[..., Awaitable[Api]]


@pytest.fixture
def steps(engine: AsyncEngine) -> Steps:
    return Steps(engine)


@pytest.fixture
def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sandbox]:
    """A running sandbox; its parameter is how many seconds each picture takes."""
    with Sandbox(tmp_path / "sandbox", latency=getattr(request, "param", 0.0)) as running:
        yield running


@pytest.fixture
async def make_generator(engine: AsyncEngine, sandbox: Sandbox) -> AsyncIterator[MakeGenerator]:
    """Generators with the real adapters, which speak to the sandbox."""
    model = OpenAIImages(api_key="sk-test", base_url=sandbox.openai_base_url, timeout=20)
    host = CloudinaryHost(cloudinary_url=sandbox.cloudinary_url, timeout=10)

    def make(concurrency: int = 4) -> Generator:
        work = Work(
            concurrency=concurrency,
            call_timeout=20,
            upload_timeout=10,
            poll_interval=0.05,
            patience=PATIENCE,
            public_id_prefix="test",
            topics=TOPICS,
            trial=False,
        )
        return Generator(
            engine=engine,
            model=model,
            host=host,
            catalogue=CATALOGUE,
            work=work,
            announce=lambda: None,
        )

    yield make
    await model.close()
    await host.close()


@pytest.fixture
async def start_api(database_url: str) -> AsyncIterator[StartApi]:
    """Serves the real application over real HTTP, as `imagepipe api` does, in this process."""
    async with AsyncExitStack() as stack:

        async def start(**values: object) -> Api:
            api = Api(database_url, **values)
            await stack.enter_async_context(api)
            return api

        yield start


@pytest.fixture
async def api(start_api: StartApi) -> Api:
    """An API without keys."""
    return await start_api()


@pytest.fixture
async def working(make_generator: MakeGenerator, database_url: str) -> AsyncIterator[Generator]:
    """A worker's generator, at work."""
    generator = make_generator()
    running = asyncio.create_task(generator.run())
    listening = asyncio.create_task(
        notices.listen(database_url, "imagepipe_queued", generator.wake)
    )
    yield generator
    listening.cancel()
    await asyncio.wait({listening})
    await generator.stop()
    await running
