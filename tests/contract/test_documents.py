"""The documents say what the code does."""

from pathlib import Path

from typer.main import get_command

from pipeline import metrics
from pipeline.api import document
from pipeline.cli import app
from pipeline.settings import as_markdown

ROOT = Path(__file__).parents[2]


def test_every_setting_is_documented_as_it_is() -> None:
    assert as_markdown() in (ROOT / "docs" / "settings.md").read_text("utf-8"), (
        "docs/settings.md is stale: its table is what pipeline.settings.as_markdown() gives"
    )


def test_every_metric_is_documented_as_it_is() -> None:
    assert metrics.as_markdown() in (ROOT / "docs" / "metrics.md").read_text("utf-8"), (
        "docs/metrics.md is stale: its table is what pipeline.metrics.as_markdown() gives"
    )


def test_the_openapi_document_is_current() -> None:
    assert document.PATH.read_text("utf-8") == document.text(), "run `make schemas`"


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    missing = [name for name in get_command(app).commands if f"imagepipe {name}" not in readme]  # type: ignore[attr-defined]
    assert missing == []
