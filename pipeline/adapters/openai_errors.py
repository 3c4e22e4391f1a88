"""What each failure of an OpenAI call means for the money: one of `pipeline.errors`.

Nothing is refunded on a guess: whatever is not known to be unbilled is `OutcomeUnknown`.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2
import openai

from pipeline.errors import Closed, OutcomeUnknown, OutsideError, Rejected, Retryable, Throttled

DEFAULT_DELAY = 20.0  # seconds, where a rate limit does not say how long it lasts
MAX_DELAY = 3600.0

# Nothing of the request had left when these happened: no name, no connection, no TLS, no tunnel.
_NOT_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)
_MODERATION = frozenset({"moderation_blocked", "content_policy_violation"})
_UNPAID = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",  # comes as a 400
    }
)


class AnswerTooLarge(httpx2.ReadError):
    """The body is longer than anybody would send for one picture."""


def classify(error: openai.APIError, *, api_key: str) -> OutsideError:
    """The error to raise for this one. `api_key` never appears in its message."""
    if isinstance(error, openai.APIStatusError):
        return _from_status(error, api_key)
    cause = error.__cause__
    reason = type(cause or error).__name__
    if isinstance(cause, _NOT_SENT):
        return Retryable("not_sent", f"the image model could not be reached ({reason})")
    if isinstance(cause, AnswerTooLarge):
        return OutcomeUnknown("bad_response", f"the answer has {cause}")
    if isinstance(error, openai.APITimeoutError):
        return OutcomeUnknown("timeout", f"the image model did not answer in time ({reason})")
    return OutcomeUnknown("connection_lost", f"the connection broke after sending ({reason})")


def _from_status(  # noqa: PLR0911 one return per meaning
    error: openai.APIStatusError, api_key: str
) -> OutsideError:
    status, request_id = error.status_code, error.request_id
    words = {word for word in (error.code, error.type) if isinstance(word, str)}
    code, message = error.code or f"http_{status}", _own_or_theirs(error, api_key)
    if status in (400, 429) and (unpaid := words & _UNPAID):
        return Closed(min(unpaid), message, request_id=request_id)
    match status:
        case 400 if words & _MODERATION:
            return Rejected("policy", message, error_class="policy", request_id=request_id)
        case 400 | 422:
            return Rejected(code, message, request_id=request_id)
        case 401:
            own = "the image model refused the API key (401)"  # theirs quotes a part of the key
            return Closed("unauthorized", own, request_id=request_id)
        case 403 | 404 | 301 | 302 | 307 | 308:
            # A redirect is not followed: the base URL is wrong, and nothing was made there.
            return Closed(code, message, request_id=request_id)
        case 429:
            delay = retry_delay(error.response.headers, datetime.now(UTC))
            return Throttled(code, message, delay=delay, request_id=request_id)
        case 503 if "server_is_overloaded" in words:
            return Retryable("server_is_overloaded", message, request_id=request_id)
        case _:
            return OutcomeUnknown(code, message, request_id=request_id)


def retry_delay(headers: Mapping[str, str], now: datetime) -> float:
    """The seconds that a rate limit asks to wait, between 0 and `MAX_DELAY`.

    Reads retry-after-ms first, then retry-after as seconds or as an HTTP date; `DEFAULT_DELAY`
    where there is neither, or nonsense.
    """
    seconds = _number(headers.get("retry-after-ms")) / 1000
    if math.isnan(seconds):
        seconds = _number(headers.get("retry-after"))
    if math.isnan(seconds):
        try:
            seconds = (parsedate_to_datetime(headers.get("retry-after", "")) - now).total_seconds()
        except (TypeError, ValueError):  # no date, or one without a zone
            return DEFAULT_DELAY
    return min(max(seconds, 0.0), MAX_DELAY)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _own_or_theirs(error: openai.APIStatusError, api_key: str) -> str:
    """The provider's sentence, on one line, bounded, without the key; else our own."""
    theirs = error.body.get("message") if isinstance(error.body, dict) else None
    if not isinstance(theirs, str) or not theirs.strip():
        return f"the image model answered {error.status_code}"
    return " ".join(theirs.replace(api_key, "[key]").split())[:500]
