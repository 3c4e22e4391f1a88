"""Entities from a topic of `entity-created` events, between two points; read without a group."""

from collections.abc import Iterator
from datetime import UTC, datetime

from pipeline import topics
from pipeline.events import Record, Undecodable, decode
from pipeline.rules.replay_range import Range
from pipeline.settings import Settings
from pipeline.sources import Found, Invalid, SourceError, Wanted
from pipeline.topic_reader import NotReplayable, Reader

AT_ONCE = 1000  # records


class TopicSource:
    """What a topic holds now, from `range_.since` until before `range_.until`."""

    def __init__(self, name: str, settings: Settings, topic: str, range_: Range) -> None:
        self.name = name
        self._settings = settings
        self._topic = topic
        self._range = range_

    def read(self) -> Iterator[Found]:
        settings = self._settings
        settings.require("kafka_bootstrap_servers")
        if not topics.reachable(settings):
            raise topics.BrokerAway(f"none answers at {settings.kafka_bootstrap_servers}")
        if settings.embedded_broker and self._range.needs_times:
            raise SourceError(
                f"source {self.name}: the embedded broker cannot look up offsets by time: leave"
                " from and to out"
            )
        try:
            with Reader(settings, self._topic) as reader:
                positions = reader.positions(self._range, datetime.now(UTC))
                for batch in reader.batches(positions, AT_ONCE):
                    yield from map(_found, batch)
        except NotReplayable as error:
            raise SourceError(f"source {self.name}: {error}") from None


def _found(record: Record) -> Found:
    where = f"{record.topic}[{record.partition}]@{record.offset}"
    try:
        return Wanted(where, decode(record).request)
    except Undecodable as error:
        return Invalid(where, error.message)
