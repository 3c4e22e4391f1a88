"""The composition root: settings in, the parts of a worker out. Nothing here connects yet."""

import ssl
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncEngine

from pipeline import faultpoints
from pipeline.adapters.cloudinary_account import CloudinaryAccount
from pipeline.adapters.local_disk import LocalDisk
from pipeline.answers import Topics
from pipeline.batches import Intake
from pipeline.database import create_engine
from pipeline.generation import Generator, Work
from pipeline.orders import Orders
from pipeline.ports import ImageModel, MediaHost
from pipeline.relay import Relay
from pipeline.rules.catalogue import Catalogue, Model, NoBound, UnknownModel, parse_catalogue
from pipeline.rules.lifecycle import Source
from pipeline.rules.retries import Patience
from pipeline.settings import Settings, SettingsError
from pipeline.waiting import Waiters

if TYPE_CHECKING:
    from pipeline.api.parts import Parts

LOCK_TIMEOUT = 5.0
"""Seconds that a request over HTTP waits for the ledger before it is answered 503."""

CATALOGUE = Path(__file__).with_name("catalogue.toml")


def catalogue() -> Catalogue:
    """The models and prices that come with this release."""
    return parse_catalogue(CATALOGUE.read_text("utf-8"))


def topics(settings: Settings) -> Topics:
    return Topics(
        ready=settings.topic_image_ready,
        failed=settings.topic_image_failed,
        deferred=settings.topic_image_deferred,
        dead_letters=settings.topic_dead_letters,
    )


def chosen_model(settings: Settings, today: date | None = None) -> Model:
    """The configured model; raises `SettingsError` when it cannot be used.

    It must be in the catalogue, its cost must be bounded for whatever may be asked, and OpenAI
    itself must still serve it (a compatible server may go on for longer).
    """
    default = Settings.model_fields["model"].default
    try:
        model = catalogue().model(settings.model)
        model.require_bounds()
    except (UnknownModel, NoBound) as error:
        example = f"for example IMAGEPIPE_MODEL={default}"
        raise SettingsError(f"IMAGEPIPE_MODEL: {error} ({example})") from None
    today = today or datetime.now(UTC).date()
    if model.shutdown_date and model.shutdown_date <= today and not settings.openai_base_url:
        raise SettingsError(
            f"IMAGEPIPE_MODEL: OpenAI has shut {model.name} down on {model.shutdown_date}; take"
            f" another one, for example IMAGEPIPE_MODEL={default}, or point OPENAI_BASE_URL to a"
            " server that still offers it"
        )
    return model


def image_model(settings: Settings) -> ImageModel:
    """The image model's adapter; raises `SettingsError`."""
    settings.require("openai_api_key")
    assert settings.openai_api_key is not None
    # The SDK takes half a second to import, which commands that only look need not wait for.
    from pipeline.adapters.openai_images import OpenAIImages  # noqa: PLC0415

    try:
        return OpenAIImages(
            api_key=settings.openai_api_key.get_secret_value(),
            base_url=settings.openai_base_url,
            timeout=settings.call_timeout,
        )
    except ValueError as error:
        raise SettingsError(f"OPENAI_API_KEY, OPENAI_BASE_URL: {error}") from None


def media_host(settings: Settings) -> MediaHost:
    """The media host's adapter; raises `SettingsError`."""
    if settings.media_host == "local":
        return LocalDisk(settings.media_directory, settings.media_base_url)
    settings.require("cloudinary_url")
    assert settings.cloudinary_url is not None
    url = settings.cloudinary_url.get_secret_value()
    try:
        CloudinaryAccount.parse(url)
    except ValueError as error:
        raise SettingsError(f"CLOUDINARY_URL: {error}") from None
    # The SDK reads CLOUDINARY_URL when it is imported, and fails then if it is malformed.
    from pipeline.adapters.cloudinary_host import CloudinaryHost  # noqa: PLC0415

    return CloudinaryHost(
        cloudinary_url=url,
        timeout=settings.upload_timeout,
        folder_mode=settings.cloudinary_folder_mode,
    )


def kafka_security(settings: Settings) -> dict[str, Any]:
    """Security options as aiokafka and kafka-python both take them."""
    options: dict[str, Any] = {"security_protocol": settings.kafka_security_protocol}
    if "SSL" in settings.kafka_security_protocol:
        options["ssl_context"] = tls_context(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        settings.require("kafka_sasl_username", "kafka_sasl_password")
        assert settings.kafka_sasl_password is not None
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": settings.kafka_sasl_password.get_secret_value(),
        }
    return options


def tls_context(settings: Settings) -> ssl.SSLContext:
    cafile = str(settings.kafka_ssl_cafile) if settings.kafka_ssl_cafile else None
    try:
        return ssl.create_default_context(cafile=cafile)
    except OSError as error:
        raise SettingsError(f"IMAGEPIPE_KAFKA_SSL_CAFILE: {cafile}: {error}") from None


@dataclass(frozen=True)
class Worker:
    """The three loops of a worker and what they share."""

    settings: Settings
    model: Model
    engine: AsyncEngine
    engine_of_hits: AsyncEngine
    image_model: ImageModel
    media_host: MediaHost

    @cached_property
    def intake(self) -> Intake:
        return Intake(
            self.engine,
            self.model,
            topics(self.settings),
            output_format=self.settings.output_format,
            group=self.settings.kafka_group,
            trial=self.settings.trial,
            engine_of_hits=self.engine_of_hits,
        )

    @cached_property
    def generator(self) -> Generator:
        settings = self.settings
        work = Work(
            concurrency=settings.concurrency,
            call_timeout=settings.call_timeout,
            call_margin=settings.call_margin,
            spool_limit=settings.spool_limit,
            upload_timeout=settings.upload_timeout,
            poll_interval=settings.poll_interval,
            patience=Patience(settings.max_tries, settings.unknown_retries),
            public_id_prefix=settings.public_id_prefix,
            topics=topics(settings),
            trial=settings.trial,
        )
        return Generator(
            engine=self.engine,
            model=self.image_model,
            host=self.media_host,
            catalogue=catalogue(),
            work=work,
            announce=self.relay.wake.set,
        )

    @cached_property
    def relay(self) -> Relay:
        settings = self.settings
        options = {
            "bootstrap_servers": settings.kafka_bootstrap_servers,
            "client_id": "imagepipe",
            "acks": "all",
            "request_timeout_ms": 10_000,  # a transaction is open meanwhile
            **kafka_security(settings),
        }
        return Relay(self.engine, options, poll_interval=settings.poll_interval)

    async def close(self) -> None:
        await self.image_model.close()
        await self.media_host.close()
        await self.intake.close()
        await self.engine_of_hits.dispose()
        await self.engine.dispose()


def api(settings: Settings) -> "Parts":
    """The parts of an HTTP server; raises `SettingsError` for anything missing or impossible.

    It needs no key of the image model or the media host: pictures are made by workers.
    """
    # FastAPI takes a third of a second to import, which other commands need not wait for.
    from pipeline.api.keys import parse_keys  # noqa: PLC0415
    from pipeline.api.parts import Parts  # noqa: PLC0415
    from pipeline.api.problems import may_try_again  # noqa: PLC0415
    from pipeline.api.readiness import Readiness  # noqa: PLC0415

    settings.require("database_url", "kafka_bootstrap_servers")
    kafka_security(settings)
    model = chosen_model(settings)
    try:
        keys = parse_keys(settings.api_keys.get_secret_value()) if settings.api_keys else []
    except ValueError as error:
        raise SettingsError(f"IMAGEPIPE_API_KEYS: {error}") from None
    url = settings.database_url
    orders = Orders(
        create_engine(url, pool_size=10, lock_timeout=LOCK_TIMEOUT),
        create_engine(url, pool_size=1),
        model,
        topics(settings),
        output_format=settings.output_format,
        trial=settings.trial,
        may_try_again=may_try_again,
    )
    waiters = Waiters(create_engine(url, pool_size=2), url)
    engine = create_engine(url, pool_size=5)
    return Parts(settings, model, engine, orders, waiters, keys, Readiness(settings))


def backfill(settings: Settings, engine: AsyncEngine) -> Intake:
    """The intake of a replay, which makes no pictures and needs no keys; raises `SettingsError`."""
    arm_fault(settings)
    return Intake(
        engine,
        chosen_model(settings),
        topics(settings),
        output_format=settings.output_format,
        group=settings.kafka_group,
        trial=settings.trial,
        source=Source.BACKFILL,
    )


def arm_fault(settings: Settings) -> None:
    """Arm the fault point that a test asks for; raises `SettingsError`."""
    try:
        faultpoints.arm(settings.fault)
    except ValueError as error:
        raise SettingsError(f"IMAGEPIPE_FAULT: {error}") from None


def worker(settings: Settings) -> Worker:
    """The parts of a worker; raises `SettingsError` for anything missing or impossible."""
    settings.require("database_url", "kafka_bootstrap_servers")
    kafka_security(settings)
    arm_fault(settings)
    return Worker(
        settings,
        chosen_model(settings),
        create_engine(settings.database_url, pool_size=settings.concurrency + 4),
        create_engine(settings.database_url, pool_size=1),
        image_model(settings),
        media_host(settings),
    )
