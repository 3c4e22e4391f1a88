"""Generation: jobs in hand, from the call to the stored asset. One `Generator` per worker."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import UUID, uuid4

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pipeline import attendance, claims, completion, deferral, metrics, settlement
from pipeline.answers import Topics
from pipeline.claims import Claim, Claimed
from pipeline.database import insist, is_transient, transact
from pipeline.errors import OutcomeUnknown, OutsideError, Retryable
from pipeline.faultpoints import during, reach
from pipeline.ports import ImageFacts, ImageModel, MediaHost, Upload
from pipeline.requests import Asker
from pipeline.rules.catalogue import Catalogue
from pipeline.rules.retries import Patience
from pipeline.settlement import Kept, Received
from pipeline.together import Together
from schemas.request import ImageRequest

log = structlog.get_logger()
T = TypeVar("T")

SEND_WITHIN = 5.0
"""Seconds from the commit of "started" to the call: a worker that was frozen does not send."""


TRANSACTIONS = 8
"""How many pictures' transactions a generator has open at a time."""

TOGETHER = 8
"""How many pictures are kept in one transaction, where so many are there."""


@dataclass(frozen=True, slots=True)
class Work:
    """How a generator works. Times in seconds; a call or an upload of which nothing is heard
    `call_margin` after the end of its time is given up, and the job taken over."""

    concurrency: int
    call_timeout: float
    upload_timeout: float
    poll_interval: float
    patience: Patience
    public_id_prefix: str
    topics: Topics
    trial: bool
    call_margin: float = 30.0
    spool_limit: int = claims.SPOOL_LIMIT

    @property
    def upload_lease(self) -> float:
        return self.upload_timeout + self.call_margin


class Generator:
    """Claims, buys, keeps, uploads, completes: as many jobs at once as `work.concurrency`."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        model: ImageModel,
        host: MediaHost,
        catalogue: Catalogue,
        work: Work,
        announce: Callable[[], None],
    ) -> None:
        """`announce` is called whenever something has been written into the outbox."""
        self._engine = engine
        self._model = model
        self._host = host
        self._catalogue = catalogue
        self._work = work
        self._transactions = asyncio.Semaphore(TRANSACTIONS)
        self._keep_together = Together(self._keep_all, lanes=TRANSACTIONS // 2, most=TOGETHER)
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._due = True
        self._announce = announce
        self._away = False
        self._absent_from = 0.0  # the monotonic instant from which absent clients may be told
        self._stopping = False
        self._ended = asyncio.Event()

    def wake(self) -> None:
        """There may be new jobs: look now instead of at the next poll."""
        self._wake.set()

    async def run(self) -> None:
        """Work until `stop` is called. Trouble with PostgreSQL is waited out."""
        try:
            while not self._stopping:
                self._wake.clear()
                if not await self._try_step() and not self._stopping:
                    await self._rest()
            if self._tasks:
                log.info("finishing what is in hand", pictures=len(self._tasks))
                await asyncio.wait(self._tasks)
        finally:
            self._ended.set()

    async def _try_step(self) -> bool:
        try:
            more = await self.step()
        except Exception as error:
            if not (isinstance(error, SQLAlchemyError) and is_transient(error)):
                log.exception("claiming failed, trying again")
            elif not self._away:
                log.warning("database is away, claiming waits", error=str(error).splitlines()[0])
            self._away = True
            self._absent_from = time.monotonic() + attendance.ABSENT_FOR
            return False
        self._away = False
        return more

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._work.poll_interval):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def stop(self) -> None:
        """Claim nothing more; returns once `run` has seen to the end what is in hand: those calls
        are being paid."""
        self._stopping = True
        self._wake.set()
        await self._ended.wait()

    async def step(self) -> bool:
        """Look once at everything there is to do; True when it is worth looking again at once."""
        work = self._work
        async with self._engine.begin() as connection:
            expired = await settlement.give_up_expired(
                connection, patience=work.patience, topics=work.topics
            )
        for charge in expired:
            metrics.count_spend(charge)
        abandoned = await self._clear_abandoned()
        async with self._engine.begin() as connection:
            uploads = await claim_uploads(
                connection, slots=self._free, lease_seconds=work.upload_lease
            )
        for job_id in uploads:
            self._spawn(self._store_spooled(job_id), job=str(job_id))
        claim = await self._claim()
        self._due = claim.due
        async with self._engine.begin() as connection:
            deferred = await deferral.announce_waiting(connection, claim.heads, topics=work.topics)
        if expired or abandoned or deferred or claim.hits:
            self._announce()
        return bool(expired or uploads or claim.claimed or claim.hits)

    async def _clear_abandoned(self) -> int:
        """Not just after an outage: those who are there could not say so, either."""
        if time.monotonic() < self._absent_from:
            return 0
        async with self._engine.begin() as connection:
            return await attendance.clear(connection, self._work.topics)

    @property
    def _free(self) -> int:
        return max(0, self._work.concurrency - len(self._tasks))

    async def _claim(self) -> Claim:
        work = self._work
        if not self._free:
            return Claim()
        reach("claim.before_transaction")
        async with self._engine.begin() as connection:
            claim = await claims.claim(
                connection,
                slots=self._free,
                call_timeout=work.call_timeout,
                call_margin=work.call_margin,
                spool_limit=work.spool_limit,
                topics=work.topics,
                trial=work.trial,
            )
            started = time.monotonic()  # before the commit: a worker may be frozen during it
            if claim.claimed:
                reach("claim.before_commit")
        if claim.claimed:
            reach("claim.after_commit")
        for claimed in claim.claimed:
            self._spawn(self._buy(claimed, started), **claimed.trace)
        return claim

    def _spawn(self, coroutine: Coroutine[None, None, None], **trace: str) -> None:
        """Run it beside us; whatever it logs says whose job it is."""
        with structlog.contextvars.bound_contextvars(**trace):
            task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a job was dropped; its lease brings it back", exc_info=error)
        if self._due:  # else there was nothing that the free place could go to
            self._wake.set()

    async def _buy(self, claimed: Claimed, started: float) -> None:
        """Call the model once, and keep the bytes or record the failure, however long it takes."""
        work = self._work
        try:
            if time.monotonic() - started > SEND_WITHIN:
                raise Retryable("not_sent", "the worker was stopped before it could send the call")
            reach("generate.before_call")
            with during("generate.during_call"):
                call = partial(self._model.generate, claimed.call)
                image = await metrics.timed_call(claimed.call.model, call)
            reach("generate.after_call")
        except OutsideError as error:
            await self._failed(claimed, error)
            return
        except Exception as error:
            log.exception("the image model's adapter failed")
            unknown = OutcomeUnknown("internal_error", f"{type(error).__name__} in the adapter")
            await self._failed(claimed, unknown)
            return

        received = Received(claimed.job_id, claimed.attempt_id, image)
        kept = await self._keep(received)
        reach("spool.after_commit")
        metrics.count_purchase(kept.charge)
        if kept.first:
            prefix, job_id = work.public_id_prefix, claimed.job_id
            upload = as_upload(prefix, job_id, kept.request, image.data, image.facts)
            await self._store(job_id, upload)

    async def _keep(self, received: Received) -> Kept:
        """Keep a picture together with others that are there, or, where one of them makes trouble,
        by itself, for as long as it takes."""
        try:
            return await self._keep_together(received)
        except Exception as error:
            log.warning("pictures could not be kept together", error=type(error).__name__)
        [kept] = await insist(lambda: self._keep_all([received]), "a received picture")
        return kept

    async def _keep_all(self, received: Sequence[Received]) -> list[Kept]:
        async def keep(connection: AsyncConnection) -> list[Kept]:
            kept = await settlement.keep_pictures(
                connection, received, self._catalogue, lease_seconds=self._work.upload_lease
            )
            reach("spool.before_commit")
            return kept

        return await transact(self._engine, keep)

    async def _transact(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._transactions:
            return await transact(self._engine, work)

    async def _failed(self, claimed: Claimed, error: OutsideError) -> None:
        work = self._work
        log.warning("generation failed", error=str(error))

        async def record(connection: AsyncConnection) -> settlement.Charge | None:
            charge = await settlement.record_failure(
                connection,
                claimed.job_id,
                claimed.attempt_id,
                error,
                patience=work.patience,
                topics=work.topics,
            )
            reach("failure.before_commit")
            return charge

        charge = await insist(lambda: self._transact(record), "a failed call")
        reach("failure.after_commit")
        metrics.count_spend(charge)
        self._announce()
        self.wake()

    async def _store_spooled(self, job_id: UUID) -> None:
        """Upload a picture that is not in hand, unless it has been stored meanwhile."""
        read = partial(read_upload, job_id=job_id, prefix=self._work.public_id_prefix)
        upload = await self._transact(read)
        if upload is not None:
            await self._store(job_id, upload)

    async def _store(self, job_id: UUID, upload: Upload) -> None:
        """Upload a picture that is in the spool, and complete its job."""
        try:
            reach("upload.before")
            with during("upload.during"):
                stored = await self._host.store(upload)
            reach("upload.after")
        except OutsideError as error:
            log.warning("upload failed, the picture stays in the spool", error=str(error))
            await self._transact(partial(completion.upload_failed, job_id=job_id, error=error))
            return

        async def complete(connection: AsyncConnection) -> list[Asker]:
            answered = await completion.complete(
                connection, job_id, stored, self._work.topics, trial=self._work.trial
            )
            reach("complete.before_commit")
            return answered

        answered = await self._transact(complete)
        reach("complete.after_commit")
        for asker in answered:
            metrics.READY_SECONDS.labels("false").observe(metrics.since(asker.received_at))
        self._announce()


async def claim_uploads(
    connection: AsyncConnection, *, slots: int, lease_seconds: float
) -> list[UUID]:
    """Take over pictures in the spool that nobody is uploading: after a crash, or a refusal."""
    rows = await connection.scalars(
        text("""
            UPDATE imagepipe.jobs
            SET lease = :lease, lease_until = clock_timestamp() + make_interval(secs => :seconds)
            WHERE id IN (
                SELECT id FROM imagepipe.jobs
                WHERE state = 'generated' AND due_at <= clock_timestamp()
                  AND (lease_until IS NULL OR lease_until < clock_timestamp())
                ORDER BY priority DESC, sequence LIMIT :slots FOR UPDATE SKIP LOCKED)
            RETURNING id
        """),
        {"lease": uuid4(), "seconds": lease_seconds, "slots": slots},
    )
    return list(rows)


async def read_upload(connection: AsyncConnection, job_id: UUID, prefix: str) -> Upload | None:
    """The upload of a picture in the spool; None when it has been stored meanwhile."""
    row = (
        await connection.execute(
            text("""
                SELECT s.*, r.data AS request FROM imagepipe.image_spool s
                JOIN imagepipe.requests r ON r.id = s.job_id WHERE s.job_id = :job
            """),
            {"job": job_id},
        )
    ).one_or_none()
    if row is None:
        return None
    facts = ImageFacts(row.format, row.width, row.height, len(row.data), row.sha256)
    request = ImageRequest.from_wire(row.request)
    return as_upload(prefix, job_id, request, bytes(row.data), facts)


def as_upload(
    prefix: str, job_id: UUID, request: ImageRequest, data: bytes, facts: ImageFacts
) -> Upload:
    """A picture on its way out. Its public id is made of the prefix, the job and the bytes' hash:
    the same id always means the same bytes, so an upload can be repeated."""
    return Upload(
        public_id=f"{prefix}-{job_id}-{facts.sha256[:12]}",
        folder=request.upload.folder,
        data=data,
        facts=facts,
        alt=request.alt.text,
        tags=request.upload.tags,
    )
