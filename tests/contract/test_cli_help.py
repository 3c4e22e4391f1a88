"""The command line explains itself: every command with an example, and the exit codes."""

import pytest
from typer.testing import CliRunner

from pipeline.cli import app

COMMANDS = [
    "up",
    "demo",
    "migrate",
    "worker",
    "api",
    "api-key",
    "explain",
    "plan",
    "generate-missing",
    "prune",
    "dlq list",
    "dlq show",
    "dlq redrive",
    "dlq drop",
    "replay",
    "reconcile",
    "publish",
    "watch",
    "status",
    "limits show",
    "limits apply",
    "jobs list",
    "jobs show",
    "jobs retry",
    "jobs cancel",
    "ledger verify",
    "ready",
    "resume",
]


def help_of(command: str) -> str:
    answer = CliRunner().invoke(app, [*command.split(), "--help"])
    assert answer.exit_code == 0
    return answer.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: str) -> None:
    [_, example] = help_of(command).split("Example: ")
    assert f"imagepipe {command}" in " ".join(example.split())


def test_all_commands_are_listed_with_the_exit_codes() -> None:
    overview = " ".join(help_of("").split())
    assert "0 done, 1 refused or failed, 2 wrong usage or configuration, 3" in overview
    assert [command for command in COMMANDS if command.split()[0] not in overview] == []


@pytest.mark.parametrize("arguments", [["publish"], ["watch", "--count", "0"], ["no-such-command"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2
