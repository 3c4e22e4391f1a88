"""Topics: created before anything consumes or publishes, with kafka-python's admin client.

Neither Faust nor a plain producer copes with a topic that is not there, and production brokers
rarely create topics by themselves.
"""

import asyncio
import socket
from collections.abc import Sequence

import structlog
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, TopicAlreadyExistsError

from pipeline import wiring
from pipeline.settings import Settings

log = structlog.get_logger()


class BrokerAway(Exception):
    """No broker answers; the message says where it was looked for."""


def names(settings: Settings) -> list[str]:
    """The five topics, the one we consume first."""
    return [
        settings.topic_entity_created,
        settings.topic_image_ready,
        settings.topic_image_failed,
        settings.topic_image_deferred,
        settings.topic_dead_letters,
    ]


def client_options(settings: Settings) -> dict[str, object]:
    """What every kafka-python client of ours is made with."""
    options: dict[str, object] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers.split(","),
        "client_id": "imagepipe",
        **wiring.kafka_security(settings),
    }
    if settings.embedded_broker:
        options["api_version"] = (2, 3)  # it cannot negotiate versions
    return options


def reader(settings: Settings, names: Sequence[str], *, from_beginning: bool) -> KafkaConsumer:
    """A consumer of everything in these topics, without a group.

    The partitions are assigned, not subscribed to: a subscription that is made while the client's
    first look at the cluster is under way may get none for five minutes (kafka-python 3.0.12).
    """
    consumer = KafkaConsumer(
        **client_options(settings),
        group_id=None,
        auto_offset_reset="earliest" if from_beginning else "latest",
    )
    consumer.assign(
        [
            TopicPartition(name, partition)
            for name in names
            for partition in consumer.partitions_for_topic(name) or ()
        ]
    )
    return consumer


def reachable(settings: Settings) -> bool:
    """Whether any of the bootstrap servers accepts a connection (kafka-python's own tries leak)."""
    for server in settings.kafka_bootstrap_servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=3).close()
        except (OSError, ValueError):
            continue
        return True
    return False


def ensure(settings: Settings) -> None:
    """Create the topics that are missing; raises `BrokerAway` or kafka-python's `KafkaError`.

    The embedded broker has none to create: it was started with them.
    """
    if not reachable(settings):
        raise BrokerAway(f"no Kafka broker answers at {settings.kafka_bootstrap_servers}")
    if settings.embedded_broker:
        return
    admin = KafkaAdminClient(**client_options(settings))
    try:
        existing = set(admin.list_topics())
        missing = {
            name: {
                "num_partitions": settings.topic_partitions,
                "replication_factor": settings.topic_replication,
            }
            for name in names(settings)
            if name not in existing
        }
        if missing:
            admin.create_topics(missing)
    except TopicAlreadyExistsError:
        pass  # another worker was faster
    finally:
        admin.close()


async def wait_until_ensured(settings: Settings) -> None:
    """`ensure`, however long the broker is away; said once."""
    told = False
    while True:
        try:
            return await asyncio.to_thread(ensure, settings)
        except (BrokerAway, KafkaError) as error:
            if not told:
                log.warning("waiting for Kafka", error=str(error))
                told = True
            await asyncio.sleep(1)
