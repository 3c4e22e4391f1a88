"""`imagepipe demo` and `imagepipe up`, as somebody meets them who has nothing but Python."""

import json
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.acceptance.harness import (
    PATIENCE,
    Running,
    bare_environment,
    entity,
    imagepipe,
    json_lines,
    wait_until,
)


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory that PostgreSQL's own user may enter, too."""
    with tempfile.TemporaryDirectory(prefix="imagepipe-embedded-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run(directory: Path, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        imagepipe(*arguments),
        env=bare_environment(),
        cwd=directory,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_demo_buys_each_picture_in_its_first_run_and_none_in_its_second(
    directory: Path,
) -> None:
    first, second = run(directory, "demo"), run(directory, "demo")

    assert first.returncode == 0, first.stdout + first.stderr
    assert second.returncode == 0, second.stdout + second.stderr
    ready, bought = numbers(first.stdout)
    assert 0 < bought < ready
    assert numbers(second.stdout) == (ready, 0)
    assert len(re.findall(r"dead letter", second.stdout)) == 1
    assert '"success": true' in second.stdout
    assert '"allowed": true' in second.stdout
    pictures = re.findall(r"^  (\S+\.webp)$", second.stdout, re.M)
    assert len(pictures) == bought
    assert all((directory / picture).read_bytes()[8:12] == b"WEBP" for picture in pictures)


def numbers(output: str) -> tuple[int, int]:
    """How many pictures are ready and how many of them were bought."""
    found = re.search(r"^(\d+) ready: (\d+) bought", output, re.M)
    assert found, output
    return int(found[1]), int(found[2])


def test_the_other_commands_find_what_up_has_started(directory: Path) -> None:
    environment = bare_environment(IMAGEPIPE_API_PORT="0")
    up = Running(imagepipe("up"), environment, directory, directory / "up.log")
    try:
        up.wait_for_log("Ready")
        published = run(directory, "publish", "-", stdin=json_lines([entity(1, "Daire")]))
        assert published.returncode == 0, published.stderr
        watched = run(directory, "watch", "--json", "--from-beginning", "--count", "1")
        assert json.loads(watched.stdout)["topic"] == "image-ready"
        status = json.loads(run(directory, "status", "--json").stdout)
        assert status["days"][0]["success"] == 1

        [address] = re.findall(r"HTTP API  (http://\S+),", up.log)
        same = {"type": "listing", "context": {"title": "daire"}}
        answer = httpx2.post(f"{address}/api/ai/generate-image", json=same)
        assert (answer.status_code, answer.json()["cached"]) == (200, True)

        second = run(directory, "up")
        assert second.returncode == 2
        assert "another process uses the embedded database" in second.stderr
        assert "Traceback" not in second.stderr
        assert run(directory, "status").returncode == 0

        assert up.stop(signal.SIGINT) == 0
        assert "Traceback" not in up.log
        wait_until(lambda: not (directory / ".imagepipe" / "up.env").exists(), "no address left")
        assert run(directory, "status").returncode == 2
    finally:
        if up.is_running:
            up.stop()
