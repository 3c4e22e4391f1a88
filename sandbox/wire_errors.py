"""The error answers of both protocols, by the name under which a fault asks for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from starlette.responses import JSONResponse


@dataclass(frozen=True, slots=True)
class OpenAIError:
    """An error answer of OpenAI: `{"error": {message, type, param, code}}`."""

    status: int
    type: str
    code: str | None
    message: str
    param: str | None = None

    def answer(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """The answer as it goes over the wire."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return JSONResponse({"error": error}, self.status, headers)


@dataclass(frozen=True, slots=True)
class CloudinaryError:
    """An error answer of Cloudinary: `{"error": {message}}`."""

    status: int
    message: str

    def answer(self) -> JSONResponse:
        """The answer as it goes over the wire."""
        return JSONResponse({"error": {"message": self.message}}, self.status)


class Refused(Exception):
    """A request is answered with this error and nothing happens."""

    def __init__(self, error: OpenAIError | CloudinaryError) -> None:
        super().__init__(error.message)
        self.error = error


def _invalid(code: str | None, message: str) -> OpenAIError:
    return OpenAIError(400, "invalid_request_error", code, message)


def _unpaid(code: str) -> OpenAIError:
    return OpenAIError(429, code, code, f"No more credit ({code}).")


_SLOW_DOWN = OpenAIError(429, "requests", "rate_limit_exceeded", "Rate limit reached.")
_BILLING_CODES = (
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
)

OPENAI_ERRORS: Mapping[str, OpenAIError] = {
    "moderation_blocked": _invalid("moderation_blocked", "The safety system refuses this prompt."),
    "content_policy_violation": _invalid(
        "content_policy_violation", "The prompt is against the content policy."
    ),
    "bad_request": _invalid("invalid_value", "A parameter has an invalid value."),
    "unauthorized": OpenAIError(
        401, "invalid_request_error", "invalid_api_key", "The API key is incorrect."
    ),
    "forbidden": OpenAIError(403, "permission_error", "forbidden", "This project may not do that."),
    "unknown_model": OpenAIError(
        404, "invalid_request_error", "model_not_found", "This model does not exist."
    ),
    "unprocessable": OpenAIError(422, "invalid_request_error", None, "Cannot process this."),
    "rate_limit": _SLOW_DOWN,
    "rate_limit_ms": _SLOW_DOWN,
    "rate_limit_seconds": _SLOW_DOWN,
    "rate_limit_date": _SLOW_DOWN,
    "slow_down": OpenAIError(429, "requests", "slow_down", "Too many requests at once."),
    **{code: _unpaid(code) for code in _BILLING_CODES},
    "server_error": OpenAIError(500, "server_error", None, "The server had an error."),
    "overloaded": OpenAIError(
        503, "server_error", "server_is_overloaded", "The server is overloaded."
    ),
    "unavailable": OpenAIError(503, "server_error", None, "The service is unavailable."),
    "echo": OpenAIError(502, "server_error", None, "The upstream refused this request."),
}

CLOUDINARY_ERRORS: Mapping[str, CloudinaryError] = {
    "bad_request": CloudinaryError(400, "Invalid image file"),
    "unauthorized": CloudinaryError(401, "Unknown API key"),
    "forbidden": CloudinaryError(403, "Uploads are not allowed here"),
    "not_found": CloudinaryError(404, "Resource not found"),
    "already_exists": CloudinaryError(409, "The public id is taken"),
    "slow_down": CloudinaryError(420, "Enhance your calm"),
    "rate_limit": CloudinaryError(429, "Too many requests"),
    "server_error": CloudinaryError(500, "General error"),
    "unavailable": CloudinaryError(503, "Service unavailable"),
}


def retry_headers(kind: str, seconds: float) -> dict[str, str]:
    """The header by which a rate limit answer of this kind asks to wait `seconds`."""
    match kind:
        case "rate_limit_ms":
            return {"retry-after-ms": str(round(seconds * 1000))}
        case "rate_limit_seconds":
            return {"retry-after": str(round(seconds))}
        case "rate_limit_date":
            moment = datetime.now(UTC) + timedelta(seconds=seconds)
            return {"retry-after": format_datetime(moment, usegmt=True)}
        case _:
            return {}
