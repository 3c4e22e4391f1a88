"""Records that could not become requests: kept, with the reason, and published untouched."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import outbox
from pipeline.events import Record
from pipeline.messages import ATTEMPTS_HEADER, Message, dead_letter

LARGEST_WHOLE = 1_000_000
"""Bytes of a record that fits into one message again, with the reason's headers added (Kafka's
default limit is 1,048,588). Of a larger one only coordinates, size and SHA-256 are kept."""

_NAMESPACE = UUID("0f6d7a6e-6a43-4f0b-8a5e-4b8f6a0b7c33")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record and why it is none of ours."""

    record: Record
    code: str
    message: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.record.value or b"").hexdigest()

    @property
    def id(self) -> UUID:
        """The record's own identity: offsets alone repeat when a broker starts anew."""
        record = self.record
        place = f"{record.topic}\0{record.partition}\0{record.offset}\0{record.timestamp_ms}"
        return uuid5(_NAMESPACE, f"{place}\0{self.sha256}")

    @property
    def attempts(self) -> int:
        """How often the record has been refused, with this time: a redriven one says so itself."""
        given = dict(self.record.headers).get(ATTEMPTS_HEADER) or b""
        return int(given) + 1 if given.isdigit() and len(given) < 5 else 1

    @property
    def size(self) -> int:
        record = self.record
        headers = sum(len(name.encode()) + len(value or b"") for name, value in record.headers)
        return len(record.key or b"") + len(record.value or b"") + headers

    @property
    def whole(self) -> bool:
        return self.size <= LARGEST_WHOLE


async def record(
    connection: AsyncConnection, letters: Sequence[DeadLetter], *, topic: str, group: str
) -> int:
    """Keep each letter once and publish it; returns how many were new."""
    if not letters:
        return 0
    unique = {letter.id: letter for letter in letters}
    rows = await connection.scalars(
        text("""
            INSERT INTO imagepipe.dead_letters
                (id, topic, partition, "offset", size, sha256, code, message, whole, attempts)
            SELECT * FROM unnest(
                CAST(:ids AS uuid[]), CAST(:topics AS text[]), CAST(:partitions AS integer[]),
                CAST(:offsets AS bigint[]), CAST(:sizes AS bigint[]), CAST(:hashes AS text[]),
                CAST(:codes AS text[]), CAST(:messages AS text[]), CAST(:whole AS boolean[]),
                CAST(:attempts AS integer[]))
            ON CONFLICT (id) DO NOTHING
            RETURNING id
        """),
        {
            "ids": list(unique),
            "topics": [letter.record.topic for letter in unique.values()],
            "partitions": [letter.record.partition for letter in unique.values()],
            "offsets": [letter.record.offset for letter in unique.values()],
            "sizes": [letter.size for letter in unique.values()],
            "hashes": [letter.sha256 for letter in unique.values()],
            "codes": [letter.code for letter in unique.values()],
            "messages": [letter.message for letter in unique.values()],
            "whole": [letter.whole for letter in unique.values()],
            "attempts": [letter.attempts for letter in unique.values()],
        },
    )
    new = [unique[id_] for id_ in rows]
    await outbox.add(
        connection, [(_message(letter, topic, group), None) for letter in new if letter.whole]
    )
    return len(new)


def _message(letter: DeadLetter, topic: str, group: str) -> Message:
    return dead_letter(
        topic,
        letter.record,
        code=letter.code,
        message=letter.message,
        error_class="permanent",
        attempts=letter.attempts,
        group=group,
    )
