"""How trouble is answered: `{success: false, error: {code, message, details}}` and a status."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

from pipeline.orders import ModelAway
from pipeline.refusals import ABANDONED, CANCELLED, SUPERSEDED, Reason
from pipeline.results import Result
from schemas.problems import explain, field_problems

POLICY = "policy"

_OF_CODE = {SUPERSEDED.code: 409, CANCELLED.code: 409, ABANDONED.code: 503}
_OF_CLASS = {"policy": 422, "permanent": 502, "exhausted": 503, "unknown-outcome": 504}


class ApiProblem(Exception):
    """An answer that is no success."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        error = {"code": code, "message": message, "details": dict(details) if details else None}
        self.body: dict[str, Any] = {"success": False, "error": error, **(more or {})}

    @property
    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def invalid(error: ValidationError) -> ApiProblem:
    """A request that is not what it should be, each field by its name."""
    fields = [
        {"field": field, "message": message} for field, message in field_problems(error.errors())
    ]
    return ApiProblem(422, "invalid_request", explain(error), details={"fields": fields})


def model_away(away: ModelAway, seconds: float | None) -> ApiProblem:
    """Nobody may call the image model; `seconds`: until somebody may again, if known."""
    headers = {} if seconds is None else {"Retry-After": str(max(1, ceil(seconds)))}
    return ApiProblem(
        503,
        "provider_unavailable",
        "The image model is not called now: " + away.message,
        details={"provider": away.code},
        headers=headers,
    )


def failed(result: Result) -> ApiProblem:
    """A request for which there is no picture."""
    assert result.reason is not None
    reason = result.reason
    code = POLICY if reason.error_class == "policy" else reason.code
    details = {"errorClass": reason.error_class, "requestId": str(result.id)}
    if code != reason.code:
        details["provider"] = reason.code
    return ApiProblem(status_of(reason), code, _sentence(reason.message), details=details)


def status_of(reason: Reason) -> int:
    """422 what the model will not draw, 409 what somebody else ended, 504 a silence, 503 what
    failed at every try and may pass, 502 any other refusal."""
    return _OF_CODE.get(reason.code) or _OF_CLASS[reason.error_class]


def may_try_again(result: Result) -> bool:
    """Whether an idempotency key whose request ended like this asks anew: 5xx are not kept."""
    return result.reason is not None and status_of(result.reason) >= 500


def _sentence(message: str) -> str:
    return message[:1].upper() + message[1:] + ("" if message.endswith(".") else ".")
