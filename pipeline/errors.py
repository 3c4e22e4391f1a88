"""What can go wrong outside, by what it means for the money and for the next try.

Adapters raise these and nothing else; `pipeline.rules.retries` decides what happens next.
`code` is a stable machine-readable word, `message` a sentence that never holds a secret.
"""

from typing import Literal

LONGEST_MESSAGE = 1000  # characters


class OutsideError(Exception):
    """An answer, or a silence, of the image model or the media host."""

    def __init__(self, code: str, message: str, *, request_id: str | None = None) -> None:
        message = storable(message[:LONGEST_MESSAGE])
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.request_id = request_id


class Retryable(OutsideError):
    """Nothing was billed and a later try may succeed (connection refused, 503 overloaded)."""


class Throttled(Retryable):
    """The provider asks everybody to wait `delay` seconds (429 with a rate limit)."""

    def __init__(
        self, code: str, message: str, *, delay: float, request_id: str | None = None
    ) -> None:
        super().__init__(code, message, request_id=request_id)
        self.delay = delay


class Closed(Retryable):
    """No call can succeed until a person acts (no credit, wrong key, unknown model)."""


class Rejected(OutsideError):
    """Final and not billed: asking again would get the same answer."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        error_class: Literal["permanent", "policy"] = "permanent",
        request_id: str | None = None,
    ) -> None:
        super().__init__(code, message, request_id=request_id)
        self.error_class: Literal["permanent", "policy"] = error_class


class OutcomeUnknown(OutsideError):
    """The request went out and nobody can say whether it was billed: the money stays held."""


def storable(words: str) -> str:
    """Somebody else's words without what PostgreSQL cannot hold: NUL and lone surrogates."""
    return words.replace("\0", "").encode(errors="replace").decode()
