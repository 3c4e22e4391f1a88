"""Collecting the evidence: the topics from end to end, the tables, the files, the sandbox."""

import hashlib
from collections.abc import Sequence
from typing import Any

import httpx2
from kafka import KafkaConsumer, TopicPartition

from pipeline import topics
from pipeline.rules.limits import Limit
from tests.acceptance.harness import Published
from tests.chaos.attack import Casualties
from tests.chaos.evidence import Evidence, Outcome, Received, Step
from tests.chaos.plan import Event
from tests.chaos.stage import Stage

TABLES = {
    "requests": "SELECT id, sequence, event_id, state, asset_id, type, deferrals"
    " FROM imagepipe.requests",
    "jobs": "SELECT id, state, prompt, joinable, lease, error_code FROM imagepipe.jobs",
    "attempts": "SELECT id, job_id, state, started_at, duplicate, cost_microusd, error_code"
    " FROM imagepipe.attempts",
    "reservations": "SELECT * FROM imagepipe.reservations",
    "windows": "SELECT * FROM imagepipe.windows",
    "spool": "SELECT job_id FROM imagepipe.image_spool",
    "outbox": "SELECT id FROM imagepipe.outbox WHERE published_at IS NULL",
    "assets": "SELECT id, cloudinary_public_id, usage_count,"
    " generation_metadata ->> 'prompt' AS prompt FROM media_assets",
    "logs": "SELECT id, cost, success FROM ai_image_generation_logs",
}


def collect(stage: Stage, published: Sequence[Event], casualties: Casualties) -> Evidence:
    """Read everything; nobody works on the stage any more."""
    settings = stage.settings
    received, ready, failed, deferred, letters = (
        _read(stage, topic) for topic in topics.names(settings)
    )
    outcomes = [
        _outcome(kind, record)
        for kind, records in (("ready", ready), ("failed", failed), ("deferred", deferred))
        for record in records
    ]
    urls = {one.data["asset"]["url"] for one in outcomes if one.kind == "ready"}
    return Evidence(
        published,
        casualties,
        [Received((r.partition, r.offset), r.key) for r in received],
        outcomes,
        [_original_place(record) for record in letters],
        stage.sandbox.purchases,
        len(stage.sandbox.uploads),
        {url: _sha256_at(url) for url in urls},
        [
            Limit(*row.values())
            for row in stage.query(
                "SELECT name, scope, span_seconds, max_requests, max_microusd, derived"
                " FROM imagepipe.limits ORDER BY derived, scope, span_seconds, name"
            )
        ],
        [
            Step(row["relation"], row["at"], row["content"])
            for row in stage.query("SELECT * FROM chaos.history ORDER BY step")
        ],
        {name: stage.query(statement) for name, statement in TABLES.items()},
    )


def _read(stage: Stage, topic: str) -> list[Any]:
    """All records of a topic, from its beginning to its present end."""
    consumer = KafkaConsumer(
        **topics.client_options(stage.settings),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    try:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        records: list[Any] = []
        while any(consumer.position(one) < ends[one] for one in partitions):
            for batch in consumer.poll(timeout_ms=500).values():
                records += batch
        return records
    finally:
        consumer.close()


def _outcome(kind: str, record: Any) -> Outcome:
    published = Published(None, record.value, dict(record.headers))
    data = published.data
    return Outcome(kind, published.id, data["causation"]["id"], data, record.value)


def _original_place(record: Any) -> tuple[int, int]:
    headers = dict(record.headers)
    return (
        int.from_bytes(headers["kafka_dlt-original-partition"]),
        int.from_bytes(headers["kafka_dlt-original-offset"]),
    )


def _sha256_at(url: str) -> str:
    answer = httpx2.get(url)
    return hashlib.sha256(answer.content).hexdigest() if answer.status_code == 200 else "missing"
