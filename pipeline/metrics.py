"""Every metric, in one place. Labels never hold ids of entities.

Counters and histograms belong to the process that counts: sum them over all processes. Gauges
describe the database, so each process says the same: take the maximum. Money is in US dollars,
times are in seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import ledger, reports
from pipeline.database import create_engine
from pipeline.reports import LimitReport, QueueReport
from pipeline.settlement import Charge

log = structlog.get_logger()
T = TypeVar("T")

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3600)

EVENTS = Counter(
    "imagepipe_events",
    "Events taken in, by what became of them: hit, waiting, repeated, dead_letter.",
    ["outcome"],
    registry=REGISTRY,
)
HTTP_REQUESTS = Counter(
    "imagepipe_http_requests",
    "Requests over HTTP, by route (never an id) and status.",
    ["route", "status"],
    registry=REGISTRY,
)
HITS = Counter(
    "imagepipe_hits",
    "Requests answered from the cache at once, by source (live, api).",
    ["source"],
    registry=REGISTRY,
)
SAVED = Counter(
    "imagepipe_saved_usd", "What the pictures of those hits had cost.", registry=REGISTRY
)
PURCHASES = Counter(
    "imagepipe_purchases",
    "Pictures received, by model and type.",
    ["model", "type"],
    registry=REGISTRY,
)
SPEND = Counter(
    "imagepipe_spend_usd",
    "What calls cost, by model and type; an unknown outcome at its upper bound.",
    ["model", "type"],
    registry=REGISTRY,
)
OUTCOMES = Counter(
    "imagepipe_outcomes",
    "Messages acknowledged by the broker, by topic.",
    ["topic"],
    registry=REGISTRY,
)
PROVIDER_SECONDS = Histogram(
    "imagepipe_provider_seconds",
    "How long a call to the image model took, by model and how it ended (bought, failed).",
    ["model", "outcome"],
    buckets=SECONDS,
    registry=REGISTRY,
)
READY_SECONDS = Histogram(
    "imagepipe_event_to_ready_seconds",
    "From an event's record, or a request's arrival, to its picture, by whether it was cached.",
    ["cached"],
    buckets=SECONDS,
    registry=REGISTRY,
)
PUBLISH_LAG = Histogram(
    "imagepipe_publish_lag_seconds",
    "From an outcome's transaction to the broker's acknowledgement.",
    buckets=SECONDS,
    registry=REGISTRY,
)

GAUGES = {
    "imagepipe_window_remaining_requests": "Purchases a limit has room for, by limit and scope.",
    "imagepipe_window_remaining_usd": "US dollars a limit has room for, by limit and scope.",
    "imagepipe_jobs": "Pictures on their way, by state.",
    "imagepipe_deferred_requests": "Requests that have been told to wait for a limit.",
    "imagepipe_spool_bytes": "Bytes of pictures that wait for their upload.",
    "imagepipe_unpublished": "Outcomes that wait for the broker.",
    "imagepipe_oldest_unpublished_seconds": "How long the oldest of them has waited.",
    "imagepipe_dead_letters": "Dead letters that are open, by reason.",
}
"""Read from the database at every scrape."""


class DatabaseGauges:
    """Collects `GAUGES` at a scrape; a database that is away leaves them out."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(name, text_) for name, text_ in GAUGES.items()]

    def collect(self) -> Iterator[Metric]:
        try:
            yield from asyncio.run(self._read())
        except (SQLAlchemyError, OSError) as error:
            log.warning("no gauges: the database is away", error=str(error).splitlines()[0])

    async def _read(self) -> list[Metric]:
        engine = create_engine(self._database_url, pool_size=1)
        try:
            async with engine.connect() as connection:
                return await _gauges(connection)
        finally:
            await engine.dispose()


async def _gauges(connection: AsyncConnection) -> list[Metric]:
    now = await ledger.now(connection)
    limits = await reports.limits(connection, now, 0)
    queue = await reports.queue(connection, now, limits)
    waiting = (
        await connection.execute(
            text("""
                SELECT (SELECT count(*) FROM imagepipe.requests
                        WHERE state = 'waiting' AND deferred_at IS NOT NULL) AS deferred,
                       (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)
                        FROM imagepipe.outbox WHERE published_at IS NULL) AS oldest
            """)
        )
    ).one()
    dead = await reports.dead_letters(connection)
    return [
        *_windows(limits),
        _by("imagepipe_jobs", "state", _by_state(queue)),
        _single("imagepipe_deferred_requests", waiting.deferred),
        _single("imagepipe_spool_bytes", queue.spool_bytes),
        _single("imagepipe_unpublished", queue.unpublished),
        _single("imagepipe_oldest_unpublished_seconds", waiting.oldest),
        _by("imagepipe_dead_letters", "reason", dead),
    ]


def _windows(limits: Iterable[LimitReport]) -> list[Metric]:
    requests = GaugeMetricFamily(
        "imagepipe_window_remaining_requests",
        GAUGES["imagepipe_window_remaining_requests"],
        labels=["limit", "scope"],
    )
    dollars = GaugeMetricFamily(
        "imagepipe_window_remaining_usd",
        GAUGES["imagepipe_window_remaining_usd"],
        labels=["limit", "scope"],
    )
    for report in limits:
        labels = [report.limit.name, report.limit.scope]
        if report.limit.max_requests is not None:
            requests.add_metric(labels, report.limit.max_requests - report.used_requests)
        if report.limit.max_microusd is not None:
            left = report.limit.max_microusd - report.used_microusd
            dollars.add_metric(labels, left / 1_000_000)
    return [requests, dollars]


def _by_state(queue: QueueReport) -> dict[str, int]:
    return {
        "queued": queue.queued,
        "generating": queue.generating,
        "generated": queue.generated,
    }


def _by(name: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, GAUGES[name], labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _single(name: str, value: float) -> Metric:
    return GaugeMetricFamily(name, GAUGES[name], value=value)


def page(database_url: str) -> bytes:
    """All metrics in Prometheus's text format. Blocks: call it in a thread."""
    return generate_latest(complete(database_url))


def complete(database_url: str) -> CollectorRegistry:
    """This process's metrics together with the database's gauges."""
    registry = CollectorRegistry()
    registry.register(REGISTRY)
    registry.register(DatabaseGauges(database_url))
    return registry


def serve(host: str, port: int, database_url: str) -> Callable[[], None]:
    """Serve /metrics in a thread; returns what ends it. Raises `OSError`."""
    server, thread = start_http_server(port, host, complete(database_url))

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def since(instant: datetime) -> float:
    """Seconds from an instant to now."""
    return max(0.0, (datetime.now(UTC) - instant).total_seconds())


def count_published(messages: Iterable[tuple[str, datetime]]) -> None:
    """Messages, each with the instant at which it was written, have reached their topics."""
    now = datetime.now(UTC)
    numbers: dict[str, int] = {}
    for topic, created_at in messages:
        numbers[topic] = numbers.get(topic, 0) + 1
        PUBLISH_LAG.observe(max(0.0, (now - created_at).total_seconds()))
    for topic, number in numbers.items():
        OUTCOMES.labels(topic).inc(number)


def count_purchase(charge: Charge | None) -> None:
    """A picture was received."""
    if charge:
        PURCHASES.labels(charge.model, charge.type).inc()
    count_spend(charge)


def count_spend(charge: Charge | None) -> None:
    """A call was settled, whatever it brought."""
    if charge:
        SPEND.labels(charge.model, charge.type).inc(charge.microusd / 1_000_000)


def count_events(hits: int, waiting: int, repeated: int, dead_letters: int) -> None:
    """A batch was recorded; `repeated`: its requests were known already."""
    EVENTS.labels("hit").inc(hits)
    EVENTS.labels("waiting").inc(waiting)
    EVENTS.labels("repeated").inc(repeated)
    EVENTS.labels("dead_letter").inc(dead_letters)


def count_hits(source: str, number: int, saved_microusd: int) -> None:
    """Requests were answered from the cache."""
    HITS.labels(source).inc(number)
    SAVED.inc(saved_microusd / 1_000_000)


async def timed_call(model: str, call: Callable[[], Awaitable[T]]) -> T:
    """Make a call to the image model and note how long it took and how it ended."""
    started = asyncio.get_running_loop().time()
    outcome = "failed"
    try:
        result = await call()
        outcome = "bought"
        return result
    finally:
        seconds = asyncio.get_running_loop().time() - started
        PROVIDER_SECONDS.labels(model, outcome).observe(seconds)


def as_markdown() -> str:
    """Every metric as a row of a table, for docs/metrics.md."""
    families = [(family.name, family.type, family.documentation) for family in REGISTRY.collect()]
    families += [(name, "gauge", meaning) for name, meaning in GAUGES.items()]
    rows = ["| metric | kind | meaning |", "|---|---|---|"]
    for name, kind, meaning in sorted(families):
        suffix = "_total" if kind == "counter" else ""
        rows.append(f"| `{name}{suffix}` | {kind} | {meaning} |")
    return "\n".join(rows) + "\n"
