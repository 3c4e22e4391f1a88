"""The two things outside that can be exchanged: the image model and the media host."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ImageCall:
    """Exactly the parameters that are sent to the image model (and hashed: `prompt_hash`)."""

    model: str
    prompt: str
    size: str  # "1024x1024", as the model takes it
    quality: str  # in the model's own words
    style: str | None = None  # dall-e-3 only
    output_format: str | None = None  # GPT image models only: "webp", "png", "jpeg"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the provider counted them."""

    text_tokens: int
    image_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the bytes themselves say; `format` is webp, png or jpeg."""

    format: str
    width: int
    height: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """A decodable picture as it was received. `usage` is None where the server leaves it out."""

    data: bytes
    facts: ImageFacts
    usage: Usage | None
    revised_prompt: str | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture on its way to the media host.

    `public_id` is one path segment chosen by us; the same id always means the same bytes.
    `folder` is a validated relative path ("listings/karasu") or None.
    """

    public_id: str
    folder: str | None
    data: bytes
    facts: ImageFacts
    alt: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The media host's answer."""

    public_id: str
    url: str
    secure_url: str
    width: int
    height: int
    format: str
    bytes: int


class ImageModel(Protocol):
    """Sells pictures. One call, one purchase: it never retries by itself."""

    async def generate(self, call: ImageCall) -> GeneratedImage:
        """Buy one picture.

        Raises `Retryable`, `Throttled`, `Closed`, `Rejected` or `OutcomeUnknown`.
        """
        ...

    async def close(self) -> None: ...


class MediaHost(Protocol):
    """Keeps pictures. Storing the same `public_id` twice changes nothing."""

    async def store(self, upload: Upload) -> StoredImage:
        """Store the bytes unchanged; raises `Retryable`, `Throttled`, `Closed` or `Rejected`."""
        ...

    async def close(self) -> None: ...
