"""Readiness as the API tells it: looked at once for all who ask at the same time."""

import asyncio
import time

from pipeline import health
from pipeline.settings import Settings

WITHIN = 5.0  # seconds in which the consumer has to move where records wait
FRESH = 2.0  # seconds for which a look is good


class Readiness:
    """The latest look at database, broker, topics and consumer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._looking = asyncio.Lock()
        self._found: health.Readiness | None = None
        self._at = 0.0

    async def look(self) -> health.Readiness:
        """Look, unless somebody has just done so."""
        async with self._looking:
            if self._found is None or time.monotonic() - self._at > FRESH:
                self._found = await asyncio.to_thread(health.look, self._settings, within=WITHIN)
                self._at = time.monotonic()
            return self._found
