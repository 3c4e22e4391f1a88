"""Orders: requests over HTTP, through the same intake, ledger and generation as the events.

A hit is answered in one statement, together with the hits of everybody who asks at the same
moment. Anything else is one transaction: recorded, a job joined or opened, and the money for it
held, or refused with nothing left behind. The picture is made by a worker.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pipeline import admission, assets, attendance, hits, idempotency, intake, notices, results
from pipeline.admission import Decision, Place
from pipeline.answers import Topics
from pipeline.assets import StoredAsset
from pipeline.database import is_transient, was_rolled_back
from pipeline.driver import DriverConnection
from pipeline.hits import Entry
from pipeline.idempotency import Key, SavedAnswer
from pipeline.ids import time_ordered
from pipeline.jobs import LIVE_STATES
from pipeline.preparation import Prepared, prepare
from pipeline.requests import API
from pipeline.results import Result
from pipeline.rules.catalogue import Model
from pipeline.rules.lifecycle import JobState, RequestState, Source
from schemas.request import ImageRequest

TRIES = 5  # of a transaction that PostgreSQL rolled back because of another one
MOST_AT_ONCE = 100  # hits in one statement


class OverLimit(Exception):
    """No room now: nothing was recorded."""

    def __init__(self, decision: Decision) -> None:
        super().__init__("over limit")
        self.decision = decision


class ModelAway(Exception):
    """Nobody may call the image model until `until` (None: until an operator says so)."""

    def __init__(self, code: str, message: str, until: datetime | None) -> None:
        super().__init__(message)
        self.code, self.message, self.until = code, message, until


@dataclass(frozen=True, slots=True)
class Considered:
    """What would become of a request; `joins`: the state of the job it would join."""

    prepared: Prepared
    asset: StoredAsset | None
    joins: JobState | None
    decision: Decision
    now: datetime


class Orders:
    """Takes orders for one process; `prepare`, then `place` or `consider`.

    Hits have an engine of their own, of one connection.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        engine_of_hits: AsyncEngine,
        model: Model,
        topics: Topics,
        *,
        output_format: str,
        trial: bool,
        may_try_again: Callable[[Result], bool],
    ) -> None:
        self._engine = engine
        self._model = model
        self._topics = topics
        self._output_format = output_format
        self._trial = trial
        self._may_try_again = may_try_again
        self._engine_of_hits = engine_of_hits
        self._hits = _Hits(engine_of_hits, topics, trial=trial)

    async def close(self) -> None:
        await self._hits.close()
        await self._engine.dispose()
        await self._engine_of_hits.dispose()

    def prepare(self, request: ImageRequest, traceparent: str | None) -> Prepared:
        """A request of its own, whatever else was asked; raises `PromptTooLong`."""
        return prepare(
            request,
            self._model,
            event_source=API,
            event_id=str(time_ordered()),
            source=Source.API,
            traceparent=traceparent,
            output_format=self._output_format,
        )

    async def place(
        self, prepared: Prepared, *, park: bool, key: Key | None
    ) -> Result | SavedAnswer:
        """Record the request; its result may well be that it is under way.

        `park`: it may wait for a limit, nobody stays to see. Without, it is attended, has its
        money, or raises `OverLimit` or `ModelAway` and leaves nothing behind. Raises `KeyReused`.
        """
        if key is None and (entry := await self._hits.ask(prepared)) and entry.asset:
            return results.ready(prepared.id, entry.asset)
        for tries_left in reversed(range(TRIES)):
            try:
                async with self._engine.begin() as connection:
                    return await self._record(connection, prepared, park=park, key=key)
            except SQLAlchemyError as error:
                if not (tries_left and was_rolled_back(error)):
                    raise
        raise AssertionError  # the last try returns or raises

    async def _record(
        self, connection: AsyncConnection, prepared: Prepared, *, park: bool, key: Key | None
    ) -> Result | SavedAnswer:
        id_ = prepared.id
        if key is not None:
            known = await idempotency.claim(connection, key, id_, may_try_again=self._may_try_again)
            if isinstance(known, SavedAnswer):
                return known
            if known != id_:
                return await self._go_on(connection, known, park=park)
        await intake.record(connection, [prepared], topics=self._topics, trial=self._trial)
        result = (await results.read(connection, [id_]))[id_]
        if result.state is RequestState.WAITING:
            if not park:
                await self._secure(connection, id_)
                await attendance.attend(connection, [id_])
            await notices.tell_queued(connection)
        return result

    async def _go_on(self, connection: AsyncConnection, known: UUID, *, park: bool) -> Result:
        """An earlier request, for which the client has come back."""
        if park:
            await attendance.park(connection, known)
        else:
            await attendance.still_there(connection, [known])
        return (await results.read(connection, [known]))[known]

    async def _secure(self, connection: AsyncConnection, request_id: UUID) -> None:
        """See to it that the request's job is under way, or has its money and may start."""
        job = await _job_of(connection, request_id)
        if job.state != JobState.QUEUED or job.reserved:
            return
        if job.code:
            raise ModelAway(job.code, job.message, job.until)
        decision = await admission.reserve(connection, job.id)
        if not decision.allowed:
            raise OverLimit(decision)

    async def park(self, request_id: UUID) -> None:
        """The client goes, and asks for the result later."""
        async with self._engine.begin() as connection:
            await attendance.park(connection, request_id)

    async def save(self, key: Key, request_id: UUID, answer: SavedAnswer) -> None:
        """Keep what the key was answered."""
        async with self._engine.begin() as connection:
            await idempotency.save(connection, key, request_id, answer.status, answer.body)

    async def look_up(self, request_id: UUID) -> Result | None:
        """A recorded request as it stands."""
        async with self._engine.connect() as connection:
            return (await results.read(connection, [request_id])).get(request_id)

    async def consider(self, prepared: Prepared) -> Considered:
        """What would become of the request now; changes nothing."""
        async with self._engine.connect() as connection:
            asset, joins = None, None
            if not prepared.request.skip_cache:
                found = await assets.find(
                    connection,
                    prepared.context_hashes,
                    [prepared.prompt_hash],
                    trial=self._trial,
                    lock=False,
                )
                asset = found.get(prepared.context_hashes, prepared.prompt_hash)
                joins = await _live_job(connection, prepared)
            now, books = await admission.books_now(connection)
            place = Place(prepared.source.priority)
            decision = await admission.decide(connection, books, now, prepared.purchase, place)
        return Considered(prepared, asset, joins, decision, now)


async def _job_of(connection: AsyncConnection, request_id: UUID) -> Row[tuple[object, ...]]:
    """The job of a request that has just joined it, with its model's open circuit, if any."""
    found = await connection.execute(
        text("""
            SELECT j.id, j.state, j.reserved, c.code, c.message,
                   nullif(c.paused_until, 'infinity') AS until
            FROM imagepipe.requests r JOIN imagepipe.jobs j ON j.id = r.job_id
            LEFT JOIN imagepipe.circuits c
                ON c.model = j.model AND c.failures > 0 AND c.paused_until > clock_timestamp()
            WHERE r.id = :id
        """),
        {"id": request_id},
    )
    return found.one()


async def _live_job(connection: AsyncConnection, prepared: Prepared) -> JobState | None:
    state = await connection.scalar(
        text(f"""
            SELECT state FROM imagepipe.jobs
            WHERE state IN {LIVE_STATES} AND joinable
              AND (context_hash = :context_hash OR prompt_hash = :prompt_hash)
            LIMIT 1
        """),
        {"context_hash": prepared.context_hash, "prompt_hash": prepared.prompt_hash},
    )
    return None if state is None else JobState(state)


class _Hits:
    """Asks for hits in one statement for all who ask while the last one is under way."""

    def __init__(self, engine: AsyncEngine, topics: Topics, *, trial: bool) -> None:
        self._connection = DriverConnection(engine)
        self._topics = topics
        self._trial = trial
        self._asking: list[tuple[Prepared, asyncio.Future[Entry | None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, prepared: Prepared) -> Entry | None:
        """The entry of a request that was a hit; None when nothing was recorded."""
        future: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()
        self._asking.append((prepared, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        return await future

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._connection.close()

    async def _serve(self) -> None:
        while self._asking:
            asking, self._asking = self._asking[:MOST_AT_ONCE], self._asking[MOST_AT_ONCE:]
            present = [one for one in asking if not one[1].done()]
            if present:
                await self._answer(present)

    async def _answer(self, asking: list[tuple[Prepared, asyncio.Future[Entry | None]]]) -> None:
        try:
            entries = await hits.record(
                self._connection,
                [prepared for prepared, _ in asking],
                topics=self._topics,
                trial=self._trial,
                hits_only=True,
            )
        except Exception as error:
            away = isinstance(error, SQLAlchemyError) and is_transient(error)
            if len(asking) > 1 and not away:  # one of them may be to blame for all
                for one in asking:
                    await self._answer([one])
                return
            for _, future in asking:
                if not future.done():
                    future.set_exception(error)
            return
        for prepared, future in asking:
            if not future.done():
                future.set_result(entries.get(prepared.id))
