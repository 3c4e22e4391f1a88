"""Logging: one line an event on standard error, as `key=value` or as JSON.

What is bound to the context (`structlog.contextvars`: the request's id, the job's, the event's,
its traceparent) stands in every line that is logged while it is being dealt with.
"""

import logging.config
import sys
import time
from typing import Any, Literal

import structlog
from pydantic_core import to_json

QUIET = ("aiokafka", "alembic", "kafka", "httpx2", "httpcore2", "urllib3", "openai", "uvicorn")
"""Libraries that are heard from errors on: what they warn of, we retry and say ourselves."""

Format = Literal["console", "json"]

SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


REPEATED_AFTER = 60.0  # seconds


class Seldom(logging.Filter):
    """Lets aiokafka say the same thing once a minute: while a broker is away it says so 30 times a
    second."""

    def __init__(self) -> None:
        super().__init__()
        self._silent_until: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        now, what = time.monotonic(), (record.name, str(record.msg)[:100])
        if now < self._silent_until.get(what, 0.0):
            return False
        self._silent_until[what] = now + REPEATED_AFTER
        return True


RENDERERS: dict[Format, structlog.typing.Processor] = {
    "console": structlog.processors.LogfmtRenderer(
        key_order=["timestamp", "level", "event"], drop_missing=True
    ),
    "json": structlog.processors.JSONRenderer(
        lambda event, **_: to_json(event, fallback=repr).decode()
    ),
}


def config(form: Format = "console", level: str = "INFO") -> dict[str, Any]:
    """The standard library's logging, as a dictionary for `logging.config` (and for Faust)."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": SHARED,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    RENDERERS[form],
                ],
            }
        },
        "filters": {"seldom": {"()": Seldom}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "filters": ["seldom"],
                "formatter": "line",
                "stream": "ext://sys.__stderr__",
            }
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {name: {"level": "ERROR"} for name in QUIET},
    }


def configure(form: Format = "console", level: str = "INFO") -> None:
    """Send structlog and the standard library's logging to standard error in one form."""
    logging.config.dictConfig(config(form, level))
    # What we say ourselves goes out straight: through the standard library a line costs four times
    # as much, and the API writes one for each request.
    structlog.configure(
        processors=[*SHARED, RENDERERS[form]],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.__stderr__),
        cache_logger_on_first_use=True,
    )
