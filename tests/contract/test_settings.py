"""Wrong settings are refused in one line that names the setting and shows a right one."""

import pytest

from pipeline import wiring
from pipeline.settings import SettingsError, load

RIGHT: dict[str, str | None] = {
    "database_url": "postgresql://imagepipe:hidden@127.0.0.1:1/nowhere",
    "kafka_bootstrap_servers": "127.0.0.1:1",
    "openai_api_key": "sk-hidden",
    "cloudinary_url": "cloudinary://key:hidden@cloud",
}

# What is set otherwise (None: not at all), and what the line has to say.
WRONG: dict[str, tuple[dict[str, str | None], list[str]]] = {
    "no database": ({"database_url": None}, ["DATABASE_URL", "DATABASE_URL=postgresql://"]),
    "no broker": (
        {"kafka_bootstrap_servers": None},
        ["KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BOOTSTRAP_SERVERS=localhost:9092"],
    ),
    "no key": ({"openai_api_key": None}, ["OPENAI_API_KEY", "OPENAI_API_KEY=sk-"]),
    "no media host": ({"cloudinary_url": None}, ["CLOUDINARY_URL=cloudinary://key:secret@cloud"]),
    "a bad database": ({"database_url": "cms"}, ["DATABASE_URL", "=postgresql://"]),
    "another database": ({"database_url": "mysql://u@h/d"}, ["DATABASE_URL", "=postgresql://"]),
    "a bad broker": ({"kafka_bootstrap_servers": "kafka"}, ["KAFKA_BOOTSTRAP_SERVERS", ":9092"]),
    "a bad media host": (
        {"cloudinary_url": "https://cloudinary.com"},
        ["CLOUDINARY_URL", "cloudinary://key:secret@cloud"],
    ),
    "two clouds": (
        {"CLOUDINARY_CLOUD_NAME": "other"},
        ["CLOUDINARY_CLOUD_NAME", "CLOUDINARY_URL=cloudinary://key:secret@cloud"],
    ),
    "an unknown model": ({"model": "dall-e-9"}, ["IMAGEPIPE_MODEL", "gpt-image-2.5"]),
    "a model without bounds": (
        {"model": "gpt-image-2.6-flare"},
        ["IMAGEPIPE_MODEL", "1792x1024", "gpt-image-2.5-flare"],
    ),
    "a retired model": (
        {"model": "dall-e-3"},
        ["IMAGEPIPE_MODEL", "2026-05-12", "IMAGEPIPE_MODEL=gpt-image-2.5-flare"],
    ),
    "a bad number": (
        {"concurrency": "many"},
        ["IMAGEPIPE_CONCURRENCY", "IMAGEPIPE_CONCURRENCY=8"],
    ),
    "no SASL user": (
        {"kafka_security_protocol": "SASL_SSL"},
        ["IMAGEPIPE_KAFKA_SASL_USERNAME"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_refused_before_anything_starts(name: str) -> None:
    changes, words = WRONG[name]
    with pytest.raises(SettingsError) as refused:
        wiring.worker(load(_env_file=None, **RIGHT | changes))
    line = str(refused.value)
    assert [word for word in words if word not in line] == [], line
    assert "\n" not in line
    assert "hidden" not in line


async def test_right_settings_make_a_worker() -> None:
    settings = load(_env_file=None, **RIGHT)
    await wiring.worker(settings).close()
    assert "hidden" not in repr(settings)


def test_several_brokers_may_be_named() -> None:
    servers = "kafka-1:9092, kafka-2:9092,[::1]:9092"
    assert load(_env_file=None, kafka_bootstrap_servers=servers).kafka_bootstrap_servers == servers
