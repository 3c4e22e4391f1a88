"""What `imagepipe replay` refuses before it connects to anything: exit code 2, and an example."""

import pytest
from typer.testing import CliRunner

from pipeline.cli import app

SERVICES = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["entity-created"], "for example --from-datetime 2026-11-01T00:00:00Z"),
        (["entity-created", "--from-earliest", "--by-duration", "2h"], "say where to begin"),
        (["entity-created", "--from-datetime", "yesterday"], "for example 2026-11-01T10:00:00Z"),
        (["entity-created", "--by-duration", "P1M"], "for example PT2H"),
        (["entity-created", "--from-offset", "0"], "for example --from-offset 0:1500"),
        (["entity-created", "--from-earliest", "--id", "a b"], "for example --id"),
        (["entity-created", "--from-earliest", "--batch", "0"], "--batch"),
        (["entity-created.dlq", "--from-earliest"], "use imagepipe dlq redrive"),
        (["image-ready", "--from-earliest"], "for example imagepipe replay entity-created"),
    ],
)
def test_wrong_options(arguments: list[str], said: str) -> None:
    answer = CliRunner().invoke(app, ["replay", *arguments], env=SERVICES)
    assert answer.exit_code == 2
    assert said in " ".join(answer.output.split())


@pytest.mark.parametrize(
    "options",
    [
        ["--from-datetime", "2026-11-01"],
        ["--by-duration", "2h"],
        ["--from-earliest", "--to-datetime", "2026-11-01"],
    ],
)
def test_the_embedded_broker_knows_no_times(options: list[str]) -> None:
    environment = SERVICES | {"IMAGEPIPE_EMBEDDED_BROKER": "true"}
    answer = CliRunner().invoke(app, ["replay", "entity-created", *options], env=environment)
    assert answer.exit_code == 2
    assert "use --from-earliest, or --from-offset 0:0" in " ".join(answer.output.split())
