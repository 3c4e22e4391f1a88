"""Generators at work against the sandbox: buying, keeping, uploading, resuming, stopping."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.synchronize import Barrier

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import intake, ledger
from pipeline.database import create_engine, transact
from pipeline.generation import Generator
from sandbox.faults import Fault
from sandbox.server import Sandbox
from tests.integration.builders import DALL_E, DEADLINE, TOPICS, Steps, asked, eventually
from tests.integration.conftest import MakeGenerator

ALL_ANSWERED = "SELECT count(*) = 0 FROM imagepipe.requests WHERE state = 'waiting'"
PROCESSES, EACH = 5, 10


@asynccontextmanager
async def working(*generators: Generator) -> AsyncIterator[None]:
    """Generators that run until the end of the block, and then finish what is in hand."""
    running = [asyncio.create_task(generator.run()) for generator in generators]
    try:
        yield
    finally:
        await asyncio.gather(*(generator.stop() for generator in generators), *running)


async def test_a_listing_gets_its_picture(
    steps: Steps, sandbox: Sandbox, make_generator: MakeGenerator
) -> None:
    upload = {"entityType": "listing", "entityId": "7", "folder": "ilanlar", "tags": ["deniz"]}
    request = asked("7", "Modern Daire", upload=upload)
    await steps.ask(request)

    async with working(make_generator()):
        await steps.until(ALL_ANSWERED)

    [purchase] = sandbox.purchases
    assert purchase.prompt == request.call.prompt
    [upload_] = sandbox.uploads
    assert (upload_.asset_folder, upload_.tags) == ("ilanlar", ("deniz",))
    assert upload_.context["alt"] == "Modern Daire"
    asset = await steps.row("SELECT * FROM media_assets")
    assert (asset.asset_type, asset.entity_id) == ("listing_image", "7")
    assert asset.cloudinary_public_id == upload_.public_id
    assert (asset.width, asset.height, asset.format, asset.bytes) == (
        1024,
        1024,
        "webp",
        purchase.size_bytes,
    )
    made = asset.generation_metadata
    cost = made["usage"]["text_tokens"] * 5 + 439 * 30  # 439 tokens: the published figure
    assert (made["costMicroUsd"], made["costBasis"], made["trial"]) == (cost, "actual", False)
    assert await steps.value("SELECT microusd FROM imagepipe.reservations") == cost
    log = await steps.row("SELECT success, media_asset_id FROM ai_image_generation_logs")
    assert tuple(log) == (True, asset.id)
    link = await steps.row("SELECT entity_id, asset_id, cached FROM imagepipe.entity_images")
    assert tuple(link) == ("7", asset.id, False)
    assert await steps.value("SELECT count(*) FROM imagepipe.image_spool") == 0
    [ready] = await steps.said("image-ready")
    assert ready.data["asset"]["url"] == asset.cloudinary_secure_url


async def test_the_specifications_example_costs_exactly_twelve_cents(
    steps: Steps, make_generator: MakeGenerator
) -> None:
    context = {
        "title": "Modern Daire",
        "propertyType": "daire",
        "location": "Karasu, Sakarya",
        "status": "satilik",
    }
    options = {"size": "1792x1024", "quality": "hd"}
    await steps.ask(asked("listing-id", model=DALL_E, context=context, options=options))

    async with working(make_generator()):
        await steps.until(ALL_ANSWERED)

    [ready] = await steps.said("image-ready")
    assert ready.data["cost"] == {"usd": 0.12, "basis": "actual"}
    assert (ready.data["asset"]["width"], ready.data["asset"]["height"]) == (1792, 1024)
    settled = await steps.row("SELECT state, microusd FROM imagepipe.reservations")
    assert tuple(settled) == ("settled", 120_000)
    assert str(await steps.value("SELECT cost FROM ai_image_generation_logs")) == "0.1200"
    assert str(await steps.value("SELECT generation_cost FROM media_assets")) == "0.1200"


async def test_an_upload_that_fails_is_repeated_and_nothing_is_bought_again(
    steps: Steps, sandbox: Sandbox, make_generator: MakeGenerator
) -> None:
    sandbox.faults.add(Fault("cloudinary", "server_error"))
    await steps.ask(asked("a"))

    async with working(make_generator()):
        await steps.until("SELECT count(*) = 1 FROM imagepipe.jobs WHERE upload_tries = 1")
        await steps.execute("UPDATE imagepipe.jobs SET due_at = clock_timestamp()")
        await steps.until(ALL_ANSWERED)

    assert (len(sandbox.purchases), sandbox.requests("cloudinary")) == (1, 2)
    assert await steps.value("SELECT count(*) FROM media_assets") == 1


async def test_a_picture_in_the_spool_of_a_dead_worker_is_uploaded_by_another(
    steps: Steps, sandbox: Sandbox, make_generator: MakeGenerator
) -> None:
    await steps.ask(asked("a"))
    await steps.keep(await steps.claim_one())
    await steps.execute("UPDATE imagepipe.jobs SET lease_until = clock_timestamp()")

    async with working(make_generator()):
        await steps.until(ALL_ANSWERED)

    assert (sandbox.requests("openai"), len(sandbox.uploads)) == (0, 1)


async def test_a_call_of_a_dead_worker_is_given_up_and_tried_once_more(
    steps: Steps, sandbox: Sandbox, make_generator: MakeGenerator
) -> None:
    await steps.ask(asked("a"))
    dead = await steps.claim_one()
    await steps.execute("UPDATE imagepipe.jobs SET lease_until = clock_timestamp()")

    async with working(make_generator()):
        await steps.until("SELECT state = 'queued' FROM imagepipe.jobs")
        await steps.execute("UPDATE imagepipe.jobs SET due_at = clock_timestamp()")
        await steps.until(ALL_ANSWERED)

    attempts = await steps.rows("SELECT id, state FROM imagepipe.attempts ORDER BY started_at")
    assert [attempt.state for attempt in attempts] == ["unknown", "bought"]
    assert attempts[0].id == dead.attempt_id
    assert len(sandbox.purchases) == 1
    held = await steps.value("SELECT microusd FROM imagepipe.reservations WHERE state = 'unknown'")
    assert held == asked("a").bound_microusd


async def test_a_connection_lost_after_sending_keeps_its_money_and_gets_another_try(
    steps: Steps, sandbox: Sandbox, make_generator: MakeGenerator
) -> None:
    sandbox.faults.add(Fault("openai", "reset_mid_body"))
    await steps.ask(asked("a"))

    async with working(make_generator()):
        await steps.until("SELECT unknowns = 1 FROM imagepipe.jobs")
        await steps.execute("UPDATE imagepipe.jobs SET due_at = clock_timestamp()")
        await steps.until(ALL_ANSWERED)

    states = await steps.rows("SELECT state FROM imagepipe.reservations ORDER BY at")
    assert [row.state for row in states] == ["unknown", "settled"]
    [ready] = await steps.said("image-ready")
    assert ready.data["cached"] is False


async def test_a_refused_subject_fails_and_the_others_get_their_pictures(
    steps: Steps, sandbox: Sandbox, make_generator: MakeGenerator
) -> None:
    sandbox.faults.add(Fault("openai", "moderation_blocked", prompt_contains="Yasak"))
    await steps.ask(asked("a", "Villa"), asked("b", "Yasak"), asked("c", "Yazlik"))

    async with working(make_generator()):
        await steps.until(ALL_ANSWERED)

    [failed] = await steps.said("image-failed")
    assert (failed.key, failed.data["errorClass"]) == ("listing:b", "policy")
    assert failed.data["costIncurred"] == {"usd": 0}
    assert {said.key for said in await steps.said("image-ready")} == {"listing:a", "listing:c"}


@pytest.mark.parametrize("sandbox", [0.5], indirect=True)
async def test_a_generator_that_is_stopped_finishes_what_is_in_hand(
    steps: Steps, sandbox: Sandbox, make_generator: MakeGenerator
) -> None:
    await steps.ask(asked("a", "A"), asked("b", "B"))
    generator = make_generator(concurrency=1)

    async with working(generator):
        await eventually(lambda: sandbox.requests("openai") == 1)

    states = await steps.rows("SELECT state FROM imagepipe.jobs ORDER BY sequence")
    assert [row.state for row in states] == ["done", "queued"]
    assert len(sandbox.purchases) == 1


async def test_what_is_claimed_while_stopping_is_finished_too(
    steps: Steps, make_generator: MakeGenerator
) -> None:
    await steps.ask(asked("a"))
    generator = make_generator()

    async with steps.engine.begin() as holder:
        await ledger.lock(holder)
        running = asyncio.create_task(generator.run())
        await steps.until_blocked()
        stopping = asyncio.create_task(generator.stop())
        await asyncio.sleep(0)  # let it begin: the claim is still under way
    await asyncio.gather(stopping, running)

    assert await steps.value("SELECT state FROM imagepipe.jobs") == "done"


async def test_generators_at_once_buy_each_picture_once(
    steps: Steps, sandbox: Sandbox, make_generator: MakeGenerator
) -> None:
    await steps.ask(*(asked(f"{n}", f"No {n}") for n in range(12)))

    async with working(make_generator(2), make_generator(2), make_generator(2)):
        await steps.until(ALL_ANSWERED)

    prompts = [purchase.prompt for purchase in sandbox.purchases]
    assert len(prompts) == len(set(prompts)) == 12
    assert await steps.value(
        "SELECT bool_and(requests = 12) FROM imagepipe.windows WHERE scope = 'global'"
    )


async def test_work_beyond_a_limit_waits_and_says_so(
    steps: Steps, sandbox: Sandbox, make_generator: MakeGenerator
) -> None:
    await steps.ask(*(asked(f"{n}", f"No {n}") for n in range(23)))  # 20 in an hour by default

    async with working(make_generator(8)):
        await steps.until("SELECT count(*) = 20 FROM imagepipe.requests WHERE state = 'ready'")
        await steps.until("SELECT count(*) = 3 FROM imagepipe.requests WHERE deferrals = 1")

    assert len(sandbox.purchases) == 20
    assert len(await steps.said("image-deferred")) == 3


def ask_at_once(url: str, process: int, barrier: Barrier) -> None:
    """One of several processes that ask for the same picture at the same moment."""

    async def ask_all() -> None:
        engine = create_engine(url)
        await asyncio.gather(*(transact(engine, partial(ask, n)) for n in range(EACH)))
        await engine.dispose()

    async def ask(number: int, connection: AsyncConnection) -> None:
        request = asked(f"{process}-{number}")
        await intake.record(connection, [request], topics=TOPICS, trial=False)

    barrier.wait(DEADLINE)
    asyncio.run(ask_all())


async def test_fifty_identical_requests_from_several_processes_are_one_purchase(
    steps: Steps, database_url: str, sandbox: Sandbox, make_generator: MakeGenerator
) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    processes = [
        context.Process(target=ask_at_once, args=(database_url, number, barrier))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join)
    assert [process.exitcode for process in processes] == [0] * PROCESSES

    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == PROCESSES * EACH
    assert await steps.value("SELECT count(*) FROM imagepipe.jobs") == 1

    async with working(make_generator()):
        await steps.until(ALL_ANSWERED)

    assert len(sandbox.purchases) == 1
    ready = await steps.said("image-ready")
    assert len({said.key for said in ready}) == len(ready) == PROCESSES * EACH
    assert [said.data["cached"] for said in ready].count(False) == 1
