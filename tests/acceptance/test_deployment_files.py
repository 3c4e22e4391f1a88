"""The files an operator deploys with: accepted by Compose, free of secrets, true to the lock."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()

FROM_OUTSIDE = {
    "POSTGRES_PASSWORD": "p@ss/word",
    "OPENAI_API_KEY": "sk-test",
    "CLOUDINARY_URL": "cloudinary://key:secret@cloud",
    "IMAGEPIPE_API_KEYS": "cms:read+generate:" + "0" * 64,
}


Compose = Callable[[dict[str, str]], subprocess.CompletedProcess[str]]


@pytest.fixture
def list_services(tmp_path: Path) -> Compose:
    """Compose checks our file, with no variables but those given, and names its services."""
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    no_variables = tmp_path / "empty.env"  # in the place of a developer's own .env
    no_variables.touch()
    command = ["docker-compose", "--env-file", str(no_variables), "--file", str(COMPOSE)]

    def run(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "config", "--services"],
            env={"PATH": os.environ["PATH"], **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_compose_accepts_the_file(list_services: Compose) -> None:
    answer = list_services(FROM_OUTSIDE)
    assert answer.returncode == 0, answer.stderr
    assert set(answer.stdout.split()) == {"kafka", "postgres", "migrate", "worker", "api"}


@pytest.mark.parametrize("name", FROM_OUTSIDE)
def test_compose_says_what_is_missing(name: str, list_services: Compose) -> None:
    explanation = re.search(rf"\${{{name}:\?(.+)}}", COMPOSE.read_text())
    assert explanation
    answer = list_services({key: value for key, value in FROM_OUTSIDE.items() if key != name})
    assert answer.returncode != 0
    assert explanation[1] in answer.stderr


def test_every_secret_of_the_compose_file_comes_from_outside() -> None:
    secret = re.compile(r"^ *(\w*(?:PASSWORD|SECRET|TOKEN|_KEYS?|CLOUDINARY_URL)): *(.+)$", re.M)
    settings = secret.findall(COMPOSE.read_text())
    assert {name for name, _ in settings} >= {*FROM_OUTSIDE, "PGPASSWORD"}
    assert [name for name, value in settings if not value.startswith("${")] == []


@pytest.mark.parametrize("path", ["docker-compose.yml", "Dockerfile", "Makefile", ".ci/run"])
def test_no_address_carries_a_password(path: str) -> None:
    assert re.findall(r"\w+://[^/\s:]*:[^/\s@]+@", (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    "step",
    [
        r"pip install .*--require-hashes -r requirements\.lock$",
        r"pip install .*--no-deps --no-build-isolation -e \.",
    ],
)
def test_the_image_is_installed_as_on_a_bare_machine(step: str) -> None:
    assert re.search(step, DOCKERFILE, re.M)
    assert re.search(step, (ROOT / "Makefile").read_text(), re.M)


def test_the_image_runs_as_an_ordinary_user() -> None:
    final_stage = DOCKERFILE.rpartition("FROM ")[2]
    users = re.findall(r"^USER (\w+)$", final_stage, re.M)
    assert users
    assert "root" not in users


def test_the_image_holds_every_package_and_nothing_that_is_not_listed() -> None:
    rules = (ROOT / ".dockerignore").read_text().split("\n")
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = metadata["tool"]["setuptools"]["packages"]["find"]["include"]
    assert "*" in rules
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == {
        "requirements.lock",
        "pyproject.toml",
        metadata["project"]["readme"],
        *(package.rstrip("*") for package in packages),
    }
