"""The benchmarks' command, as far as it goes without measuring."""

import subprocess
import sys
from importlib import import_module

import pytest

from benchmarks.__main__ import NAMES


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_is_there(name: str) -> None:
    assert callable(import_module(f"benchmarks.{name}").measure)


def test_help_has_an_example() -> None:
    answer = run("--help")
    assert (answer.returncode, "Example: python -m benchmarks" in answer.stdout) == (0, True)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    answer = run("intakes")
    assert answer.returncode == 2
    assert "there is no benchmark intakes; there are intake, latency" in answer.stderr
