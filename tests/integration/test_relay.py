"""The relay on a real broker: everything once in normal running, in order, and never given up."""

import asyncio
import socket
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable

import pytest
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from kafka import KafkaAdminClient

from pipeline import outbox
from pipeline.messages import Headers, Message
from pipeline.relay import FIRST_PAUSE, Relay
from tests import services
from tests.integration.builders import DEADLINE, Steps, eventually

UNPUBLISHED = "SELECT count(*) FROM imagepipe.outbox WHERE published_at IS NULL"
PARTITIONS = 4


@pytest.fixture
def topic(kafka_bootstrap: str, topic_prefix: str) -> str:
    """A topic of the test's own (the embedded broker makes it when it is first named)."""
    name = f"{topic_prefix}image-ready"
    if not services.kafka().name.startswith("embedded"):
        admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
        admin.create_topics({name: {"num_partitions": PARTITIONS, "replication_factor": 1}})
        admin.close()
    return name


def relay(steps: Steps, address: str, *, batch: int = 500) -> Relay:
    options = {"bootstrap_servers": address, "acks": "all", "request_timeout_ms": 5_000}
    return Relay(steps.engine, options, poll_interval=0.05, batch=batch)


async def write(steps: Steps, *messages: Message) -> None:
    async with steps.engine.begin() as connection:
        await outbox.add(connection, [(message, None) for message in messages])


async def publish(steps: Steps, *relays: Relay) -> None:
    """Let relays run until nothing is left, and stop them."""
    running = [asyncio.create_task(one.run()) for one in relays]
    await steps.until(f"SELECT ({UNPUBLISHED}) = 0")
    for one in relays:
        one.stop()
    await asyncio.gather(*running)


async def read_all(address: str, topic: str) -> dict[bytes, list[tuple[bytes, Headers]]]:
    """By key, the values and headers of all that the topic holds, in order."""
    found = defaultdict(list)
    async with AIOKafkaConsumer(
        bootstrap_servers=address, auto_offset_reset="earliest"
    ) as consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        left = sum(ends.values())
        async with asyncio.timeout(DEADLINE):
            while left:
                record = await consumer.getone()
                found[record.key].append((record.value, tuple(record.headers)))
                left -= 1
    return dict(found)


async def test_outcomes_reach_the_topic_with_key_and_headers(
    steps: Steps, kafka_bootstrap: str, topic: str
) -> None:
    headers = (("ce_id", b"1"), ("content-type", b"application/json"))
    await write(steps, Message(topic, b"listing:1", b"{}", headers))

    await publish(steps, relay(steps, kafka_bootstrap))

    assert await read_all(kafka_bootstrap, topic) == {b"listing:1": [(b"{}", headers)]}


async def test_a_batch_larger_than_the_wire_takes_keeps_its_order(
    steps: Steps, kafka_bootstrap: str, topic: str
) -> None:
    values = [f"{number:03} {'x' * 90_000}".encode() for number in range(20)]
    await write(steps, *(Message(topic, b"listing:1", value, ()) for value in values))

    await publish(steps, relay(steps, kafka_bootstrap))

    found = await read_all(kafka_bootstrap, topic)
    assert found == {b"listing:1": [(value, ()) for value in values]}


async def test_relays_at_once_publish_everything_once_and_in_order(
    steps: Steps, kafka_bootstrap: str, topic: str
) -> None:
    keys = [f"listing:{number}".encode() for number in range(20)]
    for number in range(10):
        value = str(number).encode()
        await write(steps, *(Message(topic, key, value, ()) for key in keys))

    await publish(steps, *(relay(steps, kafka_bootstrap, batch=7) for _ in range(2)))

    found = await read_all(kafka_bootstrap, topic)
    expected = [(str(number).encode(), ()) for number in range(10)]
    assert found == dict.fromkeys(keys, expected)


async def test_what_the_broker_refuses_stays_and_the_rest_goes_out(
    steps: Steps, kafka_bootstrap: str, topic: str
) -> None:
    too_large = Message(topic, b"listing:1", b"x" * 2_000_000, ())
    await write(steps, too_large, Message(topic, b"listing:2", b"small", ()))

    async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, acks="all") as producer:
        with pytest.raises(KafkaError):
            await relay(steps, kafka_bootstrap).step(producer)

    left = await steps.rows("SELECT key FROM imagepipe.outbox WHERE published_at IS NULL")
    assert [bytes(row.key) for row in left] == [b"listing:1"]
    assert list(await read_all(kafka_bootstrap, topic)) == [b"listing:2"]


async def test_a_broker_that_is_away_is_waited_for_and_said_once(
    steps: Steps, kafka_bootstrap: str, topic: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    await write(steps, Message(topic, b"listing:1", b"{}", ()))

    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(publish(steps, relay(steps, f"127.0.0.1:{port}")))
        await eventually(lambda: any("broker is away" in entry["event"] for entry in logs))
        assert await steps.value(UNPUBLISHED) == 1
        async with await asyncio.start_server(_forward_to(kafka_bootstrap), "127.0.0.1", port):
            await running

    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == [
        "broker is away, outcomes wait in the outbox"
    ]
    assert list(await read_all(kafka_bootstrap, topic)) == [b"listing:1"]


async def test_new_work_does_not_hurry_a_relay_that_waits_for_the_broker(
    steps: Steps,
) -> None:
    tries: list[float] = []

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tries.append(time.monotonic())
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    one = relay(steps, f"127.0.0.1:{port}")

    async with server:
        with structlog.testing.capture_logs() as logs:
            running = asyncio.create_task(one.run())
            await eventually(lambda: any("broker is away" in entry["event"] for entry in logs))
            before = len(tries)
            one.wake.set()
            await eventually(lambda: len(tries) > before)
        one.stop()
        await running

    assert tries[before] - tries[before - 1] > FIRST_PAUSE / 2


async def test_a_relay_outlives_a_schema_that_it_does_not_know(
    steps: Steps, kafka_bootstrap: str, topic: str
) -> None:
    await write(steps, Message(topic, b"listing:1", b"{}", ()))
    await steps.execute("ALTER TABLE imagepipe.outbox RENAME TO outbox_of_another_release")
    one = relay(steps, kafka_bootstrap)

    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(one.run())
        await eventually(lambda: any("database is away" in entry["event"] for entry in logs))
        await steps.execute("ALTER TABLE imagepipe.outbox_of_another_release RENAME TO outbox")
        await steps.until(f"SELECT ({UNPUBLISHED}) = 0")
        one.stop()
        await running

    assert list(await read_all(kafka_bootstrap, topic)) == [b"listing:1"]


async def test_a_relay_can_be_stopped_while_the_broker_is_away(steps: Steps, topic: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    await write(steps, Message(topic, b"listing:1", b"{}", ()))
    one = relay(steps, f"127.0.0.1:{port}")

    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(one.run())
        await eventually(lambda: any("broker is away" in entry["event"] for entry in logs))
        one.stop()
        async with asyncio.timeout(DEADLINE):
            await running

    assert await steps.value(UNPUBLISHED) == 1


def _forward_to(
    address: str,
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A connection handler that passes bytes on, so that a broker appears on another port."""
    host, port = address.split(",", maxsplit=1)[0].rsplit(":", 1)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    return forward
