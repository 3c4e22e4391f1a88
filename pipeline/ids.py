"""Ids that rise with time, so that new rows stand together in an index."""

import secrets
import time
from uuid import UUID


def time_ordered() -> UUID:
    """A UUID version 7 (RFC 9562): milliseconds since 1970, then 74 random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return UUID(int=value)
