"""A batch of Kafka records made durable: requests recorded, dead letters kept, nothing lost."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import psycopg
import structlog
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pipeline import dead_letters, hits, intake, metrics
from pipeline.answers import Topics
from pipeline.database import insist, transact
from pipeline.dead_letters import DeadLetter
from pipeline.driver import DriverConnection
from pipeline.events import Record, Undecodable, decode
from pipeline.faultpoints import reach
from pipeline.intake import Recorded
from pipeline.preparation import Prepared, prepare
from pipeline.rules.calls import PromptTooLong
from pipeline.rules.catalogue import Model
from pipeline.rules.lifecycle import Source

log = structlog.get_logger()


NOTHING = Recorded(0, frozenset(), 0)


@dataclass(frozen=True, slots=True)
class Understood:
    """A record that is a request."""

    record: Record
    prepared: Prepared

    @property
    def key(self) -> str | None:
        """The key of its entity."""
        return self.prepared.request.upload.entity_key


Along = Callable[[AsyncConnection, "Sequence[Understood | DeadLetter]", Recorded], Awaitable[None]]
"""What else goes into the transaction that keeps these records; it may be run again."""


class Intake:
    """Takes records in; everything it needs, and `accept`."""

    def __init__(
        self,
        engine: AsyncEngine,
        model: Model,
        topics: Topics,
        *,
        output_format: str,
        group: str,
        trial: bool,
        source: Source = Source.LIVE,
        engine_of_hits: AsyncEngine | None = None,
    ) -> None:
        """`engine_of_hits`: for one connection on which hits are recorded ahead of the rest."""
        self._engine = engine
        self._hits = DriverConnection(engine_of_hits) if engine_of_hits else None
        self._turn = asyncio.Lock()
        self._model = model
        self._topics = topics
        self._output_format = output_format
        self._group = group
        self._trial = trial
        self._source = source

    async def accept(self, records: Sequence[Record]) -> Recorded:
        """`read` and `record`: make every record durable."""
        return await self.record([self.read(record) for record in records])

    async def record(self, read: Sequence["Understood | DeadLetter"]) -> Recorded:
        """Make a batch durable, however long PostgreSQL is away, or not what it should be. Batches
        take their turns in the order in which they come.

        What nobody can understand becomes a dead letter. So does a record that PostgreSQL refuses:
        the batch is halved until the culprit stands alone.
        """
        hits_ = self._hits_of(read)
        async with self._turn:
            ahead, rest = await self._record_hits(hits_, read)
            # An exception that left here would acknowledge the batch, and so lose it.
            result = ahead + (await insist(lambda: self.keep(rest), "a batch") if rest else NOTHING)
        dead = sum(isinstance(one, DeadLetter) for one in read)
        log.info(
            "batch recorded",
            records=len(read),
            new=result.new,
            hits=result.hits,
            waiting=result.waiting,
            dead=dead,
        )
        metrics.count_events(result.hits, result.waiting, len(read) - result.new - dead, dead)
        metrics.count_hits(self._source, result.hits, result.saved_microusd)
        now, ready_seconds = time.time(), metrics.READY_SECONDS.labels("true")
        for one in read:
            if isinstance(one, Understood) and one.prepared.id in result.answered:
                ready_seconds.observe(max(0.0, now - one.record.timestamp_ms / 1000))
        return result

    async def close(self) -> None:
        if self._hits is not None:
            await self._hits.close()

    def _hits_of(self, read: Sequence["Understood | DeadLetter"]) -> dict[str, object] | None:
        """The parameters by which a batch's hits are recorded ahead of the rest.

        Of an entity that is in the batch more than once nothing is taken ahead: sequence numbers
        follow the order of its events.
        """
        keys = Counter(one.key for one in read if isinstance(one, Understood))
        alone = [one.prepared for one in read if isinstance(one, Understood) and keys[one.key] == 1]
        if self._hits is None or not alone:
            return None
        try:
            return hits.parameters(alone, topics=self._topics, trial=self._trial, hits_only=True)
        except Exception:  # the transaction finds out whose fault it is
            return None

    async def _record_hits(
        self, asked: dict[str, object] | None, read: Sequence["Understood | DeadLetter"]
    ) -> tuple[Recorded, Sequence["Understood | DeadLetter"]]:
        """Record hits in one statement that commits by itself; what became of them, and the rest of
        the batch, which wants a transaction. Whatever goes wrong here is dealt with there."""
        if self._hits is None or asked is None:
            return NOTHING, read
        try:
            entries = await hits.run(self._hits, asked)
        except Exception as error:
            log.debug("hits are recorded with the rest", error=type(error).__name__)
            return NOTHING, read
        reach("hits.after_commit")
        saved = sum(entry.saved_microusd for entry in entries.values())
        rest = [
            one for one in read if not isinstance(one, Understood) or one.prepared.id not in entries
        ]
        return Recorded(len(entries), frozenset(entries), saved), rest

    def read(self, record: Record) -> Understood | DeadLetter:
        """What a record is."""
        try:
            event = decode(record)
            prepared = prepare(
                event.request,
                self._model,
                event_source=event.source,
                event_id=event.id,
                source=self._source,
                traceparent=event.traceparent,
                output_format=self._output_format,
            )
        except Undecodable as error:
            return DeadLetter(record, error.code, error.message)
        except PromptTooLong as error:
            return DeadLetter(record, "prompt_too_long", str(error))
        except Exception as error:
            log.exception("a record could not be read", offset=record.offset)
            return DeadLetter(record, "internal_error", f"{type(error).__name__} while reading it")
        return Understood(record, prepared)

    async def keep(
        self, read: Sequence[Understood | DeadLetter], along: Along | None = None
    ) -> Recorded:
        """Make a batch durable in one transaction, or in several where PostgreSQL refuses one of
        its records; `along` is done in each. Other trouble is raised, if it does not pass."""
        beside = False  # whether `along` is under way: what fails there is no record's fault

        async def work(connection: AsyncConnection) -> Recorded:
            nonlocal beside
            beside = False
            letters = [one for one in read if isinstance(one, DeadLetter)]
            await dead_letters.record(
                connection, letters, topic=self._topics.dead_letters, group=self._group
            )
            prepared = [one.prepared for one in read if isinstance(one, Understood)]
            recorded = await intake.record(
                connection, prepared, topics=self._topics, trial=self._trial
            )
            if along is not None:
                beside = True
                await along(connection, read, recorded)
                beside = False
            reach("intake.before_commit")
            return recorded

        try:
            reach("intake.before_transaction")
            recorded = await transact(self._engine, work)
            reach("intake.after_commit")
            return recorded
        except Exception as error:
            if beside or not _blames_a_record(error):
                raise
            if len(read) > 1:
                first = await self.keep(read[: len(read) // 2], along)
                second = await self.keep(read[len(read) // 2 :], along)
                return first + second
            (culprit,) = read
            if isinstance(culprit, DeadLetter):
                raise
            return await self.keep([_refused(culprit, error)], along)


def _blames_a_record(error: Exception) -> bool:
    """Whether the error is about a record's values, rather than the database as it is now (a
    read-only server, a missing privilege, a schema of another release, no connection left)."""
    if isinstance(error, DBAPIError):
        state = error.orig.sqlstate if isinstance(error.orig, psycopg.Error) else None
        too_large = (state or "").startswith("54")  # program_limit_exceeded
        return too_large or isinstance(error, DataError | IntegrityError)
    return not isinstance(error, SQLAlchemyError | OSError)


def _refused(culprit: Understood, error: Exception) -> DeadLetter:
    if not isinstance(error, DBAPIError):
        log.error("a request could not be recorded", id=str(culprit.prepared.id), exc_info=error)
        return DeadLetter(
            culprit.record, "internal_error", f"{type(error).__name__} while recording it"
        )
    reason = type(error.orig).__name__
    log.error("PostgreSQL refused a request", id=str(culprit.prepared.id), reason=reason)
    return DeadLetter(
        culprit.record, "database_refused", f"PostgreSQL refused its values ({reason})"
    )
