"""Schemathesis against the served OpenAPI document, all checks; `make fuzz-api` is the long run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.harness import World, bare_environment
from tests.acceptance.test_api import start_api

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))  # per operation and phase
PLENTY = """
[[limit]]
name = "hour"
window = "1h"
requests = 1000000
"""


@pytest.mark.timeout(60 + 10 * EXAMPLES)
def test_no_request_that_can_be_thought_of_breaks_the_contract(world: World) -> None:
    assert world.run("limits", "apply", "-", stdin=PLENTY).returncode == 0
    made = json.loads(world.run("api-key", "fuzz", "--json").stdout)
    world.start_worker(IMAGEPIPE_CONCURRENCY="32")
    api, address = start_api(world, IMAGEPIPE_API_KEYS=made["entry"])
    config = world.directory / "schemathesis.toml"
    config.write_text(f'[auth.openapi.HTTPBearer]\nbearer = "{made["key"]}"\n')
    schemathesis = str(Path(sys.executable).with_name("schemathesis"))

    answer = subprocess.run(
        [
            schemathesis,
            "run",
            f"{address}/openapi.json",
            "--checks=all",
            f"--max-examples={EXAMPLES}",
            "--seed=1",
        ],
        env=bare_environment(SCHEMATHESIS_HOOKS="tests.acceptance.schemathesis_hooks"),
        cwd=world.directory,
        capture_output=True,
        text=True,
        check=False,
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "Tested: 8" in answer.stdout
    assert "a request failed" not in api.log
