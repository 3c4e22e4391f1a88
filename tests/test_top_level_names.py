"""The top-level names are short, and others use them too: here they must mean this repository."""

import ast
import importlib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = ["agents", "pipeline", "schemas", "sandbox", "migrations"]


@pytest.mark.parametrize("name", NAMES)
def test_no_other_installed_distribution_owns_the_name(name: str) -> None:
    assert set(packages_distributions().get(name, [])) <= {"imagepipe"}


@pytest.mark.parametrize("name", ["agents", "pipeline", "schemas", "sandbox"])
def test_the_package_that_is_imported_is_the_repositorys(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ == str(REPOSITORY / name / "__init__.py")


def test_agents_holds_no_code_of_its_own() -> None:
    source = (REPOSITORY / "agents" / "__init__.py").read_text(encoding="utf-8")
    [docstring] = ast.parse(source).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)
