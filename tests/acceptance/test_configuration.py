"""Wrong configuration: one line that names the setting, exit code 2, before anything starts."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.harness import bare_environment, imagepipe

START_SECONDS = 30.0

RIGHT = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nowhere",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "OPENAI_API_KEY": "sk-test",
    "CLOUDINARY_URL": "cloudinary://key:secret@cloud",
}

# What is set otherwise (None: not at all), and what the line has to say.
WRONG: dict[str, tuple[dict[str, str | None], str]] = {
    "no key": ({"OPENAI_API_KEY": None}, "OPENAI_API_KEY=sk-"),
    "a bad media host": ({"CLOUDINARY_URL": "https://cloudinary.com"}, "CLOUDINARY_URL: "),
    "two clouds": ({"CLOUDINARY_CLOUD_NAME": "other"}, "CLOUDINARY_CLOUD_NAME is set"),
}
FAUST = [sys.executable, "-m", "faust", "-A", "agents.app", "worker", "-l", "info"]

Start = Callable[[list[str], dict[str, str | None]], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Runs a command to its end, with the right settings but for those given."""

    def run(
        command: list[str], changes: dict[str, str | None]
    ) -> "subprocess.CompletedProcess[str]":
        variables = {name: text for name, text in (RIGHT | changes).items() if text is not None}
        return subprocess.run(
            command,
            env=bare_environment(**variables),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )

    return run


def assert_refused(answer: "subprocess.CompletedProcess[str]", words: str) -> None:
    assert answer.returncode == 2, answer.stderr
    assert answer.stdout == ""
    assert answer.stderr.startswith("imagepipe: ")
    assert answer.stderr.count("\n") == 1, answer.stderr
    assert words in answer.stderr


@pytest.mark.parametrize("command", [imagepipe("worker"), FAUST], ids=["worker", "faust"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_refused(name: str, command: list[str], start: Start) -> None:
    changes, words = WRONG[name]
    assert_refused(start(command, changes), words)


@pytest.mark.parametrize("command", [imagepipe("worker"), imagepipe("status")])
def test_a_database_that_is_not_migrated_is_refused(
    command: list[str], start: Start, empty_database_url: str
) -> None:
    answer = start(command, {"DATABASE_URL": empty_database_url})
    assert_refused(answer, "imagepipe migrate")


def test_migrate_brings_such_a_database_to_the_newest_schema(
    start: Start, empty_database_url: str
) -> None:
    database: dict[str, str | None] = {"DATABASE_URL": empty_database_url}
    first, second = (start(imagepipe("migrate"), database) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "already" not in first.stdout
    assert "already" in second.stdout
    assert start(imagepipe("status"), database).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "who"),
    [(["status"], "database"), (["watch"], "Kafka")],
)
def test_a_command_says_who_is_away(arguments: list[str], who: str, start: Start) -> None:
    answer = start(imagepipe(*arguments), {})
    assert answer.returncode == 4
    assert answer.stderr.startswith("imagepipe: ")
    assert who in answer.stderr
    assert answer.stderr.count("\n") == 1, answer.stderr
