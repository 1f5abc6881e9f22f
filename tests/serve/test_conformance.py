"""The official conformance suite of MCP, as npm carries it, against our server and with our client.

What is not here is what we do not offer: completion, logging, sampling, elicitation, resources, prompts, images, sound,
progress and OAuth. `server-sse-polling` is about a recommendation, resuming a stream, that we do not follow.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npx") is None, reason="the suite comes from npm, by npx"),
]
HERE = Path(__file__).parent
# The suite needs a newer node than many systems have.
SUITE = ["npx", "--yes", "--package=node@22", "--package=@modelcontextprotocol/conformance@0.1.16", "conformance"]
SERVER_SCENARIOS = (
    "server-initialize",
    "ping",
    "tools-list",
    "tools-call-simple-text",
    "tools-call-error",
    "json-schema-2020-12",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
)
CLIENT_SCENARIOS = ("initialize", "tools_call", "sse-retry")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, str(HERE / "conformance_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def passed(folder: Path, *words: str) -> None:
    done = subprocess.run([*SUITE, *words, "-o", str(folder)], capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Passed: " in said, said
    assert "0 failed, 0 warnings" in said, said


@pytest.mark.parametrize("scenario", SERVER_SCENARIOS)
def test_our_server(scenario: str, url: str, tmp_path: Path) -> None:
    passed(tmp_path, "server", "--url", url, "--scenario", scenario)


@pytest.mark.parametrize("scenario", CLIENT_SCENARIOS)
def test_our_client(scenario: str, tmp_path: Path) -> None:
    command = f"{sys.executable} {HERE / 'conformance_client.py'}"
    passed(tmp_path, "client", "--command", command, "--scenario", scenario)
