"""What the integration tests share: the pipeline's steps, a sandbox, generators that use it."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline.adapters.cloudinary_host import CloudinaryHost
from pipeline.adapters.openai_images import OpenAIImages
from pipeline.generation import Generator, Work
from sandbox.server import Sandbox
from tests.integration.builders import CATALOGUE, PATIENCE, TOPICS, Steps

MakeGenerator = Callable[..., Generator]


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
