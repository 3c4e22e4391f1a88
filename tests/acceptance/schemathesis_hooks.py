"""What a schema cannot say: an idempotency key is a new one for each new request, and what Prefer
may ask for."""

from typing import Any
from uuid import uuid4

import schemathesis


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if case.headers and isinstance(case.headers.get("Idempotency-Key"), str):
        case.headers["Idempotency-Key"] = str(uuid4())
    if case.headers and isinstance(case.headers.get("prefer"), str):
        case.headers["prefer"] = "respond-async"
