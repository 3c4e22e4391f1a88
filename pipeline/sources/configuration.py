"""Which source a word means: a file, a topic, one of a `sources.toml`, or a ready-made one of the
CMS."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from pipeline.rules.replay_range import Range
from pipeline.settings import Settings
from pipeline.sources import Found, Source, SourceError
from pipeline.sources.database import DatabaseSource
from pipeline.sources.files import FileSource
from pipeline.sources.mapping import RowMapping
from pipeline.sources.topic import TopicSource

READY_MADE = Path(__file__).with_name("cms.toml")
OWN = Path("sources.toml")
ALL = "cms"
TOPIC = "topic:"


class _Rows(BaseModel):
    """One `[sources.NAME]` of rows: a query or a file, and what its columns are."""

    model_config = ConfigDict(extra="forbid")

    query: str | None = None
    file: Path | None = None
    entity_type: str
    entity_id: str
    context: dict[str, str] = Field(min_length=1)
    photos: tuple[str, ...] = ()
    options: dict[str, str] = Field(default_factory=dict)

    @property
    def mapping(self) -> RowMapping:
        return RowMapping(self.entity_id, self.entity_type, self.context, self.photos, self.options)


class _Topic(BaseModel):
    """One `[sources.NAME]` of events: a topic between two instants."""

    model_config = ConfigDict(extra="forbid")

    topic: str
    since: AwareDatetime | None = Field(None, alias="from")
    until: AwareDatetime | None = Field(None, alias="to")


_Configured = _Rows | _Topic


class _Together:
    """Several sources, one after the other."""

    def __init__(self, name: str, sources: list[Source]) -> None:
        self.name = name
        self._sources = sources

    def read(self) -> Iterator[Found]:
        for source in self._sources:
            yield from source.read()


def source_of(word: str, settings: Settings, configuration: Path | None) -> Source:
    """The source that a word on the command line means; raises `SourceError`.

    `configuration` is a `sources.toml`; None: the one in this directory, if there is one.
    """
    own = configuration or OWN
    if configuration and not configuration.exists():
        raise SourceError(f"{configuration}: there is no such file")
    named = _read(READY_MADE) | (_read(own) if own.exists() else {})
    if word in named:
        return _made(word, named[word], settings)
    if word == ALL:
        return _Together(ALL, [_made(name, named[name], settings) for name in _read(READY_MADE)])
    if word.startswith(TOPIC):
        return TopicSource(word, settings, word.removeprefix(TOPIC), Range())
    path = Path(word)
    if word == "-" or path.exists():
        return FileSource(path)
    raise SourceError(
        f"{word!r} is neither a file nor a source; there are {', '.join(named)}, {ALL} for those"
        f" of the CMS together, and {TOPIC}NAME for a topic"
    )


def _read(path: Path) -> dict[str, _Configured]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SourceError(f"{path}: not TOML: {error}") from None
    sources = document.pop("sources", None)
    if document or not isinstance(sources, dict):
        raise SourceError(f"{path}: write one [sources.NAME] after the other, and nothing else")
    return {name: _checked(path, name, entry) for name, entry in sources.items()}


def _checked(path: Path, name: str, entry: Any) -> _Configured:
    kind = _Topic if isinstance(entry, dict) and "topic" in entry else _Rows
    try:
        found = kind.model_validate(entry)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise SourceError(f"{path}: source {name}: {field}: {problem['msg']}") from None
    if isinstance(found, _Rows) and (found.query is None) == (found.file is None):
        raise SourceError(f"{path}: source {name}: give a query, a file, or a topic")
    return found


def _made(name: str, entry: _Configured, settings: Settings) -> Source:
    if isinstance(entry, _Topic):
        range_ = Range(since=entry.since, until=entry.until)
        return TopicSource(name, settings, entry.topic, range_)
    if entry.file is not None:
        source = FileSource(entry.file, entry.mapping)
        source.name = name
        return source
    url = settings.cms_database_url or settings.database_url
    if not url:
        settings.require("database_url")
    assert entry.query is not None
    return DatabaseSource(name, url, entry.query, entry.mapping)
