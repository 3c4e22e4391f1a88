"""The plan: an endless series of events, good and bad, that follows from a seed."""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from sandbox.faults import Fault

SOURCE = "urn:imagepipe:chaos"
TYPES = ("listing", "article", "neighborhood", "hero", "custom")
SUBJECTS = ("Denize sıfır daire", "Bahçeli villa", "Sahil yolu", "Çarşı içi", "Yaylada bir gün")

MODEL_TROUBLE = (
    "rate_limit_seconds",
    "slow_down",
    "overloaded",
    "unavailable",
    "server_error",
    "timeout",
    "reset",
    "reset_mid_body",
    "html",
    "no_usage",
)
HOST_TROUBLE = ("server_error", "rate_limit", "timeout", "reset", "garbage")
PAUSE = 1.0  # seconds that a rate limit asks for
ALWAYS = 1_000_000  # times
REMEMBERED = 40  # events and pictures that later events refer to


@dataclass(frozen=True, slots=True)
class Picture:
    """A distinct picture; `token` stands in its title, and so in its prompt, and nowhere else."""

    token: str
    type: str
    subject: str
    skip_cache: bool = False
    refused: bool = False  # by the model's moderation, always


@dataclass(frozen=True, slots=True)
class Event:
    """A record to publish. `id` is None for one that is broken; the faults go in before it."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    id: str | None = None
    entity: str | None = None
    picture: Picture | None = None
    faults: tuple[Fault, ...] = ()


@dataclass(slots=True)
class Plan:
    """Draws events; the same seed draws the same ones."""

    seed: int
    _random: Random = field(init=False)
    _count: int = 0
    _pictures: deque[Picture] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _events: deque[Event] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def __post_init__(self) -> None:
        self._random = Random(f"{self.seed}/plan")

    def __iter__(self) -> Iterator[Event]:
        while True:
            yield from self._next()

    def _next(self) -> list[Event]:
        if not self._events:
            return self._new()
        draw = self._random.choices(
            (
                self._new,
                self._crowd,
                self._again,
                self._redelivery,
                self._changed_entity,
                self._past_the_cache,
                self._refused,
                self._broken,
            ),
            weights=(44, 6, 20, 6, 5, 8, 5, 6),
        )
        return draw[0]()

    def _new(self) -> list[Event]:
        return [self._ask(self._new_picture())]

    def _crowd(self) -> list[Event]:
        """Several entities want the same new picture at once."""
        picture = self._new_picture()
        return [self._ask(picture) for _ in range(self._random.randint(2, 5))]

    def _again(self) -> list[Event]:
        """A picture that exists, or is being made."""
        return [self._ask(self._random.choice(self._pictures))]

    def _redelivery(self) -> list[Event]:
        return [self._random.choice(self._events)]

    def _changed_entity(self) -> list[Event]:
        """A newer event for an entity: what it asked for before may be superseded."""
        earlier = self._random.choice(self._events)
        assert earlier.picture is not None
        return [self._ask(self._new_picture(earlier.picture.type), entity=earlier.entity)]

    def _past_the_cache(self) -> list[Event]:
        picture = self._picture("S", skip_cache=True)
        return [self._ask(picture) for _ in range(self._random.randint(1, 2))]

    def _refused(self) -> list[Event]:
        return [self._ask(self._picture("M", refused=True))]

    def _new_picture(self, kind: str | None = None) -> Picture:
        picture = self._picture("P", kind)
        self._pictures.append(picture)
        return picture

    def _picture(
        self,
        letter: str,
        kind: str | None = None,
        *,
        skip_cache: bool = False,
        refused: bool = False,
    ) -> Picture:
        token = f"{letter}{self._number():05}"
        kind = kind or self._random.choice(TYPES)
        return Picture(token, kind, self._random.choice(SUBJECTS), skip_cache, refused)

    def _number(self) -> int:
        self._count += 1
        return self._count

    def _ask(self, picture: Picture, entity: str | None = None) -> Event:
        """A new event for a picture, written in one of several ways that mean the same."""
        number = self._number()
        kind = "other" if picture.type in ("hero", "custom") else picture.type
        entity = entity or f"{kind}:{number}"
        data = self._data(picture, entity)
        id_ = f"{self.seed}-{number}"
        event = Event(
            entity.encode(),
            *self._encoded(data, id_),
            id=id_,
            entity=entity,
            picture=picture,
            faults=self._trouble(picture),
        )
        self._events.append(event)
        return event

    def _data(self, picture: Picture, entity: str) -> dict[str, Any]:
        entity_type, _, entity_id = entity.partition(":")
        spaces = " " * self._random.randint(1, 3)
        if picture.type == "custom":
            says: dict[str, Any] = {"prompt": f"{picture.subject}, {picture.token}{spaces}"}
        else:
            name = "name" if picture.type == "neighborhood" else "title"
            subject = self._random.choice((picture.subject, picture.subject.lower()))
            says = {"context": {name: f"{subject}{spaces}{picture.token}"}}
        upload = {"entityType": entity_type, "entityId": entity_id}
        data = {"type": picture.type, "upload": upload, **says}
        return data | ({"skipCache": True} if picture.skip_cache else {})

    def _encoded(
        self, data: dict[str, Any], id_: str
    ) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
        """A CloudEvent's value and headers, in binary or in structured mode."""
        attributes = {"specversion": "1.0", "type": "cms.entity-created", "source": SOURCE}
        attributes["id"] = id_
        if self._random.random() < 0.5:
            headers = tuple((f"ce_{name}", text.encode()) for name, text in attributes.items())
            return json.dumps(data, ensure_ascii=False).encode(), headers
        return json.dumps(attributes | {"data": data}).encode(), ()

    def _trouble(self, picture: Picture) -> tuple[Fault, ...]:
        if picture.refused:
            return (Fault("openai", "moderation_blocked", ALWAYS, prompt_contains=picture.token),)
        draw = self._random.random()
        if draw < 0.12:
            kind = self._random.choice(MODEL_TROUBLE)
            return (Fault("openai", kind, prompt_contains=picture.token, retry_after=PAUSE),)
        if draw < 0.16:
            return (Fault("cloudinary", self._random.choice(HOST_TROUBLE)),)
        return ()

    def _broken(self) -> list[Event]:
        number = self._number()
        upload = {"entityType": "listing", "entityId": f"{number}"}
        wrong: tuple[Any, ...] = (
            ["an array", number],
            {"type": "yacht", "context": {"title": f"B{number}"}, "upload": upload},
            {"type": "listing", "context": {}, "upload": upload},
            {"type": "custom", "upload": upload},
            {"type": "listing", "context": {"title": f"B{number}"}},
            {"type": "listing", "context": {"title": "N\0L"}, "upload": upload},
            {"type": "listing", "context": {"title": "B", "n": 2**53}, "upload": upload},
        )
        value = self._random.choice(
            (b"\xff\xfe", b"{", *(json.dumps(one).encode() for one in wrong))
        )
        return [Event(f"broken:{number}".encode(), value)]
