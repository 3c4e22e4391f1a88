"""A Kafka broker inside this process: librdkafka's mock cluster, for trials and small tests.

It keeps everything in memory, about 5 MB a partition, and silently forgets the oldest beyond that.
It has no CreateTopics and no offsets by time. A client that names an unknown topic gets one with
four partitions.
"""

import ctypes
import ctypes.util
import importlib.metadata
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Self

_PRODUCER = 0  # rd_kafka_type_t
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_LIBRARY = re.compile(r"(lib)?rdkafka.*\.(so(\.\d+)?|dylib|dll)")


class EmbeddedBrokerError(RuntimeError):
    """The broker could not be started; the message is one line for the user."""


class EmbeddedBroker:
    """One broker on a free loopback port, from `start()` to `stop()` or inside a `with` block.

    `topics` are created with that many partitions each; they cannot be added later. Raises
    `ValueError` for a name or a number that Kafka would not take either.
    """

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        self._topics = dict(topics or {})
        for topic, partitions in self._topics.items():
            # librdkafka itself takes any name, and ends the whole process at a negative number.
            if not _TOPIC.fullmatch(topic) or partitions < 1:
                raise ValueError(f"no topic can be {topic!r} with {partitions} partitions")
        self._library: ctypes.CDLL | None = None
        self._client: int | None = None
        self.bootstrap_servers = ""  # host:port, known once it has started

    def start(self) -> None:
        """Start listening; raises `EmbeddedBrokerError`."""
        library = _load()
        options = library.rd_kafka_conf_new()
        reason = ctypes.create_string_buffer(512)
        # log_level 3: it would announce itself on stderr otherwise.
        for name, value in ((b"test.mock.num.brokers", b"1"), (b"log_level", b"3")):
            if library.rd_kafka_conf_set(options, name, value, reason, len(reason)) != 0:
                raise EmbeddedBrokerError(f"the embedded broker: {reason.value.decode()}")
        # The cluster lives in threads of a client that nobody else uses, and dies with it.
        client = library.rd_kafka_new(_PRODUCER, options, reason, len(reason))
        if client is None:
            raise EmbeddedBrokerError(f"the embedded broker: {reason.value.decode()}")
        self._library, self._client = library, client
        cluster = library.rd_kafka_handle_mock_cluster(client)
        for topic, partitions in self._topics.items():
            if library.rd_kafka_mock_topic_create(cluster, topic.encode(), partitions, 1) != 0:
                self.stop()
                raise EmbeddedBrokerError(f"the embedded broker refused the topic {topic!r}")
        self.bootstrap_servers = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()

    def stop(self) -> None:
        """Stop listening and forget everything. Stopping twice is fine."""
        if self._library is not None and self._client is not None:
            self._library.rd_kafka_destroy(self._client)
            self._client = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _load() -> ctypes.CDLL:
    """librdkafka as the confluent-kafka wheel brings it, else as the system has it."""
    files = importlib.metadata.files("confluent-kafka") or []
    wheels = (str(file.locate()) for file in files if _LIBRARY.fullmatch(file.name))
    path = next(wheels, None) or ctypes.util.find_library("rdkafka")
    if path is None:
        raise EmbeddedBrokerError("the embedded broker needs librdkafka: install confluent-kafka")
    library = ctypes.CDLL(path)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, []),
        ("rd_kafka_conf_set", number, [pointer, text, text, text, ctypes.c_size_t]),
        ("rd_kafka_new", pointer, [number, pointer, text, ctypes.c_size_t]),
        ("rd_kafka_destroy", None, [pointer]),
        ("rd_kafka_handle_mock_cluster", pointer, [pointer]),
        ("rd_kafka_mock_topic_create", number, [pointer, text, number, number]),
        ("rd_kafka_mock_cluster_bootstraps", text, [pointer]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
