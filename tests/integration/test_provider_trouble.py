"""Trouble with the image model or the media host: who is called, what it costs, how it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from pipeline import reports, wiring
from pipeline.generation import Generator
from pipeline.settings import load
from sandbox.faults import Fault
from sandbox.server import Sandbox
from tests.integration.builders import Steps, asked

ALL_ANSWERED = "SELECT count(*) = 0 FROM imagepipe.requests WHERE state = 'waiting'"
NOBODY_CALLS = "SELECT count(*) = 0 FROM imagepipe.jobs WHERE state = 'generating'"
PAUSE = """
    SELECT extract(epoch FROM paused_until - (SELECT max(finished_at) FROM imagepipe.attempts))
    FROM imagepipe.circuits
"""
BOUND = asked("a").bound_microusd

NewWorker = Callable[..., wiring.Worker]


@pytest.fixture
async def new_worker(database_url: str, sandbox: Sandbox) -> AsyncIterator[NewWorker]:
    """Workers as they are in production, each with its own connections, without their consumer."""
    workers: list[wiring.Worker] = []

    def make(**settings: object) -> wiring.Worker:
        values = {
            "database_url": database_url,
            "kafka_bootstrap_servers": "127.0.0.1:1",
            "openai_api_key": "sk-test",
            "openai_base_url": sandbox.openai_base_url,
            "cloudinary_url": sandbox.cloudinary_url,
            "poll_interval": 0.05,
            "max_tries": 3,
        }
        workers.append(wiring.worker(load(_env_file=None, **values | settings)))
        return workers[-1]

    yield make
    for worker in workers:
        await worker.close()


@asynccontextmanager
async def working(*workers: wiring.Worker) -> AsyncIterator[None]:
    """Workers that generate until the end of the block, and then finish what is in hand."""
    generators = [worker.generator for worker in workers]
    running = [asyncio.create_task(generator.run()) for generator in generators]
    try:
        yield
    finally:
        await asyncio.gather(*(generator.stop() for generator in generators), *running)


async def look(steps: Steps, *generators: Generator) -> None:
    """Each generator looks once for work, one after the other; returns when all calls have
    ended."""
    for generator in generators:
        await generator.step()
    await steps.until(NOBODY_CALLS)


async def due_now(steps: Steps) -> None:
    """As if every pause of every job were over."""
    await steps.execute("UPDATE imagepipe.jobs SET due_at = clock_timestamp()")


async def pauses_are_over(steps: Steps) -> None:
    """As if every pause of every model were over."""
    await steps.execute("UPDATE imagepipe.circuits SET paused_until = clock_timestamp()")


async def test_a_rate_limit_pauses_every_worker_for_exactly_as_long_as_it_asks(
    steps: Steps, sandbox: Sandbox, new_worker: NewWorker
) -> None:
    sandbox.faults.add(Fault("openai", "rate_limit_ms", retry_after=1.5))
    first, second = new_worker(), new_worker()
    await steps.ask(asked("limited", "A"))
    await look(steps, first.generator)
    pause = await steps.row(
        "SELECT c.paused_until AS until, a.finished_at AS since"
        " FROM imagepipe.circuits c, imagepipe.attempts a"
    )
    assert 1.5 <= (pause.until - pause.since).total_seconds() < 1.6

    await steps.ask(*(asked(f"{n}", f"No {n}") for n in range(5)))
    async with working(first, second):
        await steps.until(ALL_ANSWERED)

    assert sandbox.requests("openai") == 1 + 6
    assert min(purchase.at for purchase in sandbox.purchases) >= pause.until
    assert await steps.value("SELECT sum(tries) FROM imagepipe.jobs") == 0


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("insufficient_quota", "insufficient_quota"),
        ("unauthorized", "unauthorized"),
        ("forbidden", "forbidden"),
        ("unknown_model", "model_not_found"),
    ],
)
async def test_a_closed_model_gets_one_probe_after_each_growing_pause(
    steps: Steps, sandbox: Sandbox, new_worker: NewWorker, kind: str, code: str
) -> None:
    sandbox.faults.add(Fault("openai", kind, times=3))
    first, second = new_worker(), new_worker()
    await steps.ask(asked("finds it closed", "A"))
    await look(steps, first.generator)
    await steps.ask(asked("waits", "B"), asked("waits too", "C"))

    for calls, pause in ((1, 60), (2, 120)):
        await look(steps, first.generator, second.generator)
        assert sandbox.requests("openai") == calls
        assert await steps.value(PAUSE) == pytest.approx(pause, abs=0.5)
        async with steps.engine.begin() as connection:
            [closed] = await reports.circuits(connection)
        assert closed.code == code
        await pauses_are_over(steps)
        await look(steps, first.generator, second.generator)

    jobs = await steps.rows("SELECT state, tries + unknowns AS used FROM imagepipe.jobs")
    assert [tuple(job) for job in jobs] == [("queued", 0)] * 3
    await pauses_are_over(steps)
    async with working(first, second):
        await steps.until(ALL_ANSWERED)
    assert sandbox.requests("openai") == 3 + 3
    assert await steps.value("SELECT count(*) FROM imagepipe.circuits") == 0
    assert len(await steps.said("image-ready")) == 3


async def test_an_overloaded_model_is_tried_again_by_each_job_at_its_own_time(
    steps: Steps, sandbox: Sandbox, new_worker: NewWorker
) -> None:
    sandbox.faults.add(Fault("openai", "overloaded", times=6))
    worker = new_worker()
    await steps.ask(*(asked(f"{n}", f"No {n}") for n in range(6)))

    await look(steps, worker.generator)

    rows = await steps.rows(
        "SELECT extract(epoch FROM j.due_at - a.finished_at) AS pause, r.microusd AS held"
        " FROM imagepipe.jobs j JOIN imagepipe.attempts a ON a.job_id = j.id"
        " JOIN imagepipe.reservations r ON r.id = a.id WHERE j.tries = 1"
    )
    assert [row.held for row in rows] == [0] * 6
    pauses = [float(row.pause) for row in rows]
    assert all(1 <= pause < 2.5 for pause in pauses)
    assert max(pauses) - min(pauses) > 0.01
    assert await steps.value("SELECT count(*) FROM imagepipe.circuits") == 0
    await due_now(steps)
    async with working(worker):
        await steps.until(ALL_ANSWERED)
    assert len(await steps.said("image-ready")) == 6


@pytest.mark.parametrize(
    ("kind", "error_class"), [("moderation_blocked", "policy"), ("bad_request", "permanent")]
)
async def test_a_final_refusal_is_asked_once_and_costs_nothing(
    steps: Steps, sandbox: Sandbox, new_worker: NewWorker, kind: str, error_class: str
) -> None:
    sandbox.faults.add(Fault("openai", kind))
    await steps.ask(asked("a"))

    async with working(new_worker()):
        await steps.until(ALL_ANSWERED)

    assert sandbox.requests("openai") == 1
    [failed] = await steps.said("image-failed")
    assert (failed.data["errorClass"], failed.data["attempts"]) == (error_class, 1)
    assert failed.data["costIncurred"] == {"usd": 0}


@pytest.mark.parametrize("kind", ["server_error", "reset", "html", "not_a_picture"])
@pytest.mark.parametrize("further", [0, 1])
async def test_an_unknown_outcome_is_tried_at_most_once_more_and_its_money_stays_spent(
    steps: Steps, sandbox: Sandbox, new_worker: NewWorker, kind: str, further: int
) -> None:
    sandbox.faults.add(Fault("openai", kind, times=5))
    generator = new_worker(unknown_retries=further).generator
    await steps.ask(asked("a"))

    for _ in range(3):
        await look(steps, generator)
        await due_now(steps)

    calls = 1 + further
    assert sandbox.requests("openai") == calls
    [failed] = await steps.said("image-failed")
    assert (failed.data["errorClass"], failed.data["attempts"]) == ("unknown-outcome", calls)
    assert failed.data["costIncurred"] == {"usd": calls * BOUND / 1_000_000}
    assert await steps.value("SELECT count(*) FROM media_assets") == 0
    assert await steps.value("SELECT count(*) FROM imagepipe.image_spool") == 0


async def test_an_exhausted_job_says_how_often_it_was_tried_and_what_that_cost(
    steps: Steps, sandbox: Sandbox, new_worker: NewWorker
) -> None:
    sandbox.faults.add(Fault("openai", "server_error"))
    sandbox.faults.add(Fault("openai", "overloaded", times=5))
    generator = new_worker().generator
    await steps.ask(asked("a"))

    for _ in range(5):
        await look(steps, generator)
        await due_now(steps)

    assert sandbox.requests("openai") == 1 + 3
    [failed] = await steps.said("image-failed")
    assert (failed.data["errorClass"], failed.data["code"]) == ("exhausted", "server_is_overloaded")
    assert failed.data["attempts"] == 4
    assert failed.data["costIncurred"] == {"usd": BOUND / 1_000_000}


async def test_while_the_media_host_is_away_pictures_wait_and_a_full_spool_stops_buying(
    steps: Steps, sandbox: Sandbox, new_worker: NewWorker
) -> None:
    sandbox.faults.add(Fault("cloudinary", "unavailable", times=1000))
    worker = new_worker(concurrency=2, spool_limit=1)
    await steps.ask(*(asked(f"{n}", f"No {n}") for n in range(5)))

    await look(steps, worker.generator)
    await steps.until("SELECT count(*) = 2 FROM imagepipe.jobs WHERE upload_tries > 0")
    for _ in range(3):
        await due_now(steps)
        await look(steps, worker.generator)
    assert sandbox.requests("openai") == 2
    assert await steps.value("SELECT count(*) FROM imagepipe.image_spool") == 2

    sandbox.faults.clear()
    await steps.until("SELECT bool_and(lease IS NULL) FROM imagepipe.jobs")
    await due_now(steps)
    async with working(worker):
        await steps.until(ALL_ANSWERED)

    prompts = [purchase.prompt for purchase in sandbox.purchases]
    assert len(prompts) == len(set(prompts)) == len(sandbox.uploads) == 5
    assert await steps.value("SELECT count(*) FROM imagepipe.image_spool") == 0


async def test_a_picture_of_other_dimensions_is_kept_with_its_own(
    steps: Steps, sandbox: Sandbox, new_worker: NewWorker
) -> None:
    sandbox.faults.add(Fault("openai", "other_dimensions"))
    await steps.ask(asked("a"))

    async with working(new_worker()):
        await steps.until(ALL_ANSWERED)

    [ready] = await steps.said("image-ready")
    assert (ready.data["asset"]["width"], ready.data["asset"]["height"]) == (512, 512)
    stored = await steps.row("SELECT width, height FROM media_assets")
    assert tuple(stored) == (512, 512)
