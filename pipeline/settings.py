"""Every setting, in one documented place: the only file that reads the environment."""

import re
from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

HOME = Path(".imagepipe")
"""Where the embedded set-up keeps its database, its pictures and `up.env`."""

UP_ENV = HOME / "up.env"
"""Written by `imagepipe up`, so that the other commands find what it started."""


class SettingsError(Exception):
    """Wrong configuration, in one line: which setting, what was wrong, an example."""


def _names(name: str) -> AliasChoices:
    """A setting that has a well-known name of its own is read under that name too."""
    return AliasChoices(f"IMAGEPIPE_{name}", name)


class Settings(BaseSettings):
    """The configuration of one process.

    Read from the environment (prefix `IMAGEPIPE_`), then from `.imagepipe/up.env` while an
    embedded set-up is running, then from `.env`.
    """

    model_config = SettingsConfigDict(
        env_prefix="IMAGEPIPE_",
        env_file=(".env", UP_ENV),
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        populate_by_name=True,
    )

    database_url: str = Field(
        default="",
        validation_alias=_names("DATABASE_URL"),
        description="PostgreSQL, postgresql://user:password@host:5432/database",
        examples=["postgresql://imagepipe:secret@localhost:5432/cms"],
        repr=False,
    )
    cms_database_url: str = Field(
        "",
        description="where sources of a backfill find the CMS's tables; default: DATABASE_URL",
        repr=False,
    )
    kafka_bootstrap_servers: str = Field(
        default="",
        validation_alias=_names("KAFKA_BOOTSTRAP_SERVERS"),
        description="Kafka brokers, host:port, separated by commas",
        examples=["localhost:9092"],
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    kafka_sasl_username: str | None = Field(None, description="with SASL", examples=["imagepipe"])
    kafka_sasl_password: SecretStr | None = Field(None, description="with SASL")
    kafka_ssl_cafile: Path | None = Field(None, description="CA bundle for TLS; default: system's")
    kafka_session_timeout: int = Field(
        60, ge=6, le=1800, description="seconds until a dead worker's partitions move on"
    )
    kafka_group: str = Field("imagepipe", description="consumer group of the workers")
    topic_entity_created: str = Field("entity-created", description="where events come from")
    topic_image_ready: str = Field("image-ready", description="where pictures are announced")
    topic_image_failed: str = Field("image-failed", description="where failures are announced")
    topic_image_deferred: str = Field("image-deferred", description="where waiting is announced")
    topic_dead_letters: str = Field(
        "entity-created.dlq", description="where records go that are no events"
    )
    topic_partitions: int = Field(4, ge=1, description="for topics that do not exist yet")
    topic_replication: int = Field(1, ge=1, description="for topics that do not exist yet")
    embedded_broker: bool = Field(
        False, description="the broker is `imagepipe up`'s own: in memory, no CreateTopics"
    )

    openai_api_key: SecretStr | None = Field(
        None,
        validation_alias=_names("OPENAI_API_KEY"),
        description="the key that pays for the pictures",
        examples=["sk-…"],
    )
    openai_base_url: str | None = Field(
        None,
        validation_alias=_names("OPENAI_BASE_URL"),
        description="a compatible server; default: OpenAI",
        examples=["http://localhost:4000/v1"],
    )
    model: str = Field("gpt-image-2.5-flare", description="a model of pipeline/catalogue.toml")
    output_format: Literal["webp", "png", "jpeg"] = Field(
        "webp", description="webp, png or jpeg: asked for and stored unchanged"
    )
    call_timeout: float = Field(360, gt=0, le=3600, description="seconds for one paid call")
    call_margin: float = Field(
        30, ge=5, description="seconds from the end of a call's or an upload's time to giving it up"
    )

    media_host: Literal["cloudinary", "local"] = Field(
        "cloudinary", description="cloudinary, or local for a directory of this machine"
    )
    cloudinary_url: SecretStr | None = Field(
        None,
        validation_alias=_names("CLOUDINARY_URL"),
        description="the account that keeps the pictures",
        examples=["cloudinary://key:secret@cloud"],
    )
    cloudinary_cloud_name: str | None = Field(
        None,
        validation_alias=AliasChoices("CLOUDINARY_CLOUD_NAME"),
        description="not used: the SDK would let it override CLOUDINARY_URL, so it is refused",
    )
    cloudinary_folder_mode: Literal["dynamic", "fixed"] = Field(
        "dynamic", description="dynamic or fixed, as the account's folders are"
    )
    media_directory: Path = Field(HOME / "media", description="of media host `local`")
    media_base_url: str | None = Field(
        None,
        description="public address of media_directory",
        examples=["https://cms.example/media"],
    )
    public_id_prefix: str = Field(
        "imagepipe",
        pattern=r"^[A-Za-z0-9_-]{1,40}$",
        description="how the names of stored pictures begin",
    )
    upload_timeout: float = Field(60, gt=0, le=600, description="seconds for one upload")

    spool_limit: int = Field(
        2**30, ge=0, description="bytes of pictures waiting for upload, above which none is bought"
    )

    concurrency: int = Field(8, ge=1, le=1000, description="pictures in flight per worker")
    batch_size: int = Field(500, ge=1, le=5000, description="events per intake transaction")
    max_tries: int = Field(5, ge=1, description="calls per picture that failed unbilled")
    unknown_retries: int = Field(
        1, ge=0, le=1, description="further calls after one whose outcome nobody knows"
    )
    poll_interval: float = Field(1.0, gt=0, description="seconds between looks at the queues")
    trial: bool = Field(
        False, description="pictures are stand-ins: marked so, they never answer live requests"
    )

    api_host: str = Field("127.0.0.1", description="where the HTTP API listens")
    api_port: int = Field(8000, ge=0, le=65535, description="0 takes a free one")
    api_keys: SecretStr | None = Field(
        None,
        description="keys of the HTTP API, NAME:SCOPES:SHA256 separated by commas; made by"
        " `imagepipe api-key`; without any it listens on loopback only",
        examples=["cms:read+generate:9f86d081…"],
    )
    api_wait: float = Field(
        180, ge=0, le=3600, description="seconds a POST waits for its picture before it answers 202"
    )
    api_cors_origins: str = Field(
        "",
        description="web pages that may call the API, separated by commas; none by default",
        examples=["https://cms.example"],
    )
    timezone: str = Field("UTC", description="of the calendar days in statistics")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="where a worker serves /metrics; 0: nowhere"
    )
    metrics_host: str = Field("127.0.0.1", description="where a worker serves /metrics")
    log_format: Literal["console", "json"] = Field(
        "console", description="console (key=value) or json"
    )

    fault: str | None = Field(
        None,
        description="for tests: die or freeze at a fault point (pipeline/faultpoints.py)",
        examples=["spool.after_commit:2"],
    )

    @field_validator("database_url", "cms_database_url")
    @classmethod
    def _postgresql(cls, url: str) -> str:
        if url and not re.match(r"postgres(ql)?(\+\w+)?://", url):
            raise ValueError("it has to be a PostgreSQL address")
        return url

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _host_and_port(cls, servers: str) -> str:
        for server in servers.split(",") if servers else ():
            if not re.fullmatch(r"\s*[^\s/:]+:\d{1,5}\s*|\s*\[[0-9a-fA-F:]+\]:\d{1,5}\s*", server):
                raise ValueError(f"{server.strip()!r} is not host:port")
        return servers

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"{name!r} is no time zone of the IANA database") from None
        return name

    @model_validator(mode="after")
    def _one_cloudinary(self) -> Self:
        if self.cloudinary_cloud_name and self.media_host == "cloudinary":
            raise ValueError(
                "CLOUDINARY_CLOUD_NAME is set, which makes Cloudinary's SDK ignore CLOUDINARY_URL;"
                " unset it and put the cloud into CLOUDINARY_URL=cloudinary://key:secret@cloud"
            )
        return self

    def require(self, *names: str) -> None:
        """Raise `SettingsError` for the first of the named settings that is missing."""
        for name in names:
            if not getattr(self, name):
                variable, example = _variable(name)
                hint = f", for example {variable}={example}" if example else ""
                raise SettingsError(f"{variable} is not set{hint}")


def _variable(name: str) -> tuple[str, str | None]:
    """The environment variable of a setting, by its shortest name, and an example."""
    field = Settings.model_fields[name]
    alias = field.validation_alias
    choices = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else []
    return (choices[-1] if choices else f"IMAGEPIPE_{name.upper()}"), (field.examples or [None])[0]


def load(**overrides: object) -> Settings:
    """Read the settings; raises `SettingsError` with one clear line."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    name = str(problem["loc"][0])
    known = name.removeprefix("IMAGEPIPE_").lower()
    if known not in Settings.model_fields:
        return f"{name}: {message}"
    variable, example = _variable(known)
    default = Settings.model_fields[known].default
    shown = example if example is not None else default
    return f"{variable}: {message} (for example {variable}={shown})"


def as_markdown() -> str:
    """Every setting as a row of a table, for docs/settings.md."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        variable, example = _variable(name)
        default = "" if field.default in (None, "") else f"`{field.default}`"
        meaning = f"{field.description}, for example `{example}`" if example else field.description
        rows.append(f"| `{variable}` | {default} | {meaning} |")
    return "\n".join(rows) + "\n"
