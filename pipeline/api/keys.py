"""API keys: several, named, kept as hashes, each with scopes.

In the configuration a key is `NAME:SCOPES:SHA256`, for example `cms:read+generate:9f86…`, and
keys are separated by commas. A key has 256 random bits, so one SHA-256 keeps it safe.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

PREFIX = "ip_"

_ENTRY = re.compile(r"([A-Za-z0-9_.-]{1,50}):([a-z+]+):([0-9a-f]{64})")


class Scope(StrEnum):
    """What a key may be used for."""

    READ = "read"
    GENERATE = "generate"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the configuration knows it."""

    name: str
    scopes: frozenset[Scope]
    sha256: str

    def __str__(self) -> str:
        scopes = "+".join(scope for scope in Scope if scope in self.scopes)
        return f"{self.name}:{scopes}:{self.sha256}"


NOBODY = ApiKey("", frozenset(Scope), "")
"""Whoever asks where there are no keys, on loopback."""


def parse_keys(text: str) -> list[ApiKey]:
    """The keys of a configuration; raises `ValueError`, which never quotes a hash."""
    keys = [_parse(place, entry.strip()) for place, entry in enumerate(text.split(","), 1)]
    names = [key.name for key in keys]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the name {name!r} is used twice")
    return keys


def _parse(place: int, entry: str) -> ApiKey:
    found = _ENTRY.fullmatch(entry)
    if not found:
        raise ValueError(
            f"key {place} is not NAME:SCOPES:SHA256; make one with: imagepipe api-key NAME"
        )
    name, scopes, digest = found.groups()
    unknown = set(scopes.split("+")) - set(Scope)
    if unknown:
        raise ValueError(f"key {name!r}: {min(unknown)!r} is no scope; use read, generate, or both")
    return ApiKey(name, frozenset(map(Scope, scopes.split("+"))), digest)


def new_key(name: str, scopes: frozenset[Scope]) -> tuple[str, ApiKey]:
    """A new secret, and what the configuration keeps of it; raises `ValueError` for the name."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, parse_keys(str(ApiKey(name, scopes, _digest(secret))))[0]


def find(keys: Sequence[ApiKey], secret: str) -> ApiKey | None:
    """The key of a secret, in constant time whichever it is."""
    digest, found = _digest(secret), None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
