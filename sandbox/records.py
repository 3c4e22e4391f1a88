"""What the sandbox sold and stored, in memory, readable from any thread."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sandbox.faults import Target


@dataclass(frozen=True, slots=True)
class Purchase:
    """One picture that OpenAI would bill, also when its answer never reached the client."""

    prompt: str
    model: str
    size: str
    quality: str
    output_format: str
    style: str | None
    at: datetime  # UTC
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StoredAsset:
    """One picture as Cloudinary would keep it; `path` is relative to the sandbox's directory."""

    public_id: str
    path: str
    asset_folder: str | None
    version: int
    format: str  # webp, png or jpg: Cloudinary's word for JPEG
    width: int
    height: int
    bytes: int
    etag: str  # MD5 of the bytes, hex
    tags: tuple[str, ...]
    context: Mapping[str, str]
    at: datetime  # UTC


class Records:
    """Everything that has happened since the sandbox started; lists come back as copies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._purchases: list[Purchase] = []
        self._assets: dict[str, StoredAsset] = {}
        self._requests: Counter[Target] = Counter()
        self._seconds: dict[Target, float] = {}

    def count_request(self, target: Target) -> None:
        """Note that one more request for `target` has arrived, whatever its answer."""
        with self._lock:
            self._requests[target] += 1

    def requests(self, target: Target) -> int:
        """How many requests for `target` have arrived."""
        with self._lock:
            return self._requests[target]

    @contextmanager
    def serving(self, target: Target) -> Iterator[None]:
        """Count a request for `target`, and add the time until its answer is ready."""
        self.count_request(target)
        arrived = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                taken = time.perf_counter() - arrived
                self._seconds[target] = self._seconds.get(target, 0.0) + taken

    def seconds(self, target: Target) -> float:
        """How long answers to OpenAI's and Cloudinary's clients were in the making, all together:
        each from its request's arrival until it was ready to be sent."""
        with self._lock:
            return self._seconds.get(target, 0.0)

    def add_purchase(self, purchase: Purchase) -> None:
        """Note one picture sold."""
        with self._lock:
            self._purchases.append(purchase)

    def purchases(self) -> list[Purchase]:
        """Every picture sold, oldest first."""
        with self._lock:
            return list(self._purchases)

    def add_asset(self, asset: StoredAsset) -> None:
        """Note a stored picture; one with the same public id is replaced."""
        with self._lock:
            self._assets[asset.public_id] = asset

    def asset(self, public_id: str) -> StoredAsset | None:
        """The picture stored under this public id since the sandbox started."""
        with self._lock:
            return self._assets.get(public_id)

    def assets(self) -> list[StoredAsset]:
        """Every stored picture, in the order in which their public ids were first seen."""
        with self._lock:
            return list(self._assets.values())
