"""openai-python's own tests, as its source distribution carries them, against a real server on a tiny base.

They were written for a mock server. What is made for them, so that a real one can answer, is in
openai_suite/supposed.py; which must be refused and which are left out, and why, in openai_suite/verdicts.toml.
All others pass unchanged.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.serve.openai_suite.supposed import ALIASES, Supposing
from tests.serve.peers import environment, source
from tests.serve.tiny import served, tiny_network

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent / "openai_suite"
OPENAI = version("openai")
FILES = (
    "test_models.py",
    "chat",
    "test_completions.py",
    "test_embeddings.py",
    "test_responses.py",
    "responses",
    "test_files.py",
    "fine_tuning/test_jobs.py",
    "fine_tuning/jobs",
)
PASSED = 693  # of 745; the others are named in verdicts.toml


def test_every_file_of_the_suite_is_run_or_said_to_be_of_what_is_not_offered() -> None:
    resources = source("openai-suite-source", f"openai=={OPENAI}") / "tests" / "api_resources"
    left = tomllib.loads((HERE / "verdicts.toml").read_text())["not_offered"]
    there = {path.relative_to(resources).as_posix() for path in resources.rglob("test_*.py")}
    run = {file for file in there if file.startswith(FILES)}
    told = {begin: {file for file in there if file.startswith(begin)} for begin in left}
    assert all(told.values()), "each names files"
    assert there == run | set().union(*told.values())
    assert run.isdisjoint(set().union(*told.values()))


def test_openais_own_tests_pass(tmp_path: Path) -> None:
    suite = source("openai-suite-source", f"openai=={OPENAI}")
    wanted = [f"openai[aiohttp]=={OPENAI}", f"pytest=={version('pytest')}", "pytest-asyncio==1.5.0", "rich==15.0.0"]
    python = environment("openai-suite", *wanted)
    network = tiny_network(tmp_path / "home")
    with served(
        network,
        records=tmp_path / "records.sqlite",
        around=lambda app: Supposing(app, network, tmp_path),
        aliases=ALIASES,
        max_jobs=1000,
    ) as running:
        done = subprocess.run(
            [python, "-m", "pytest", "-p", "judge", "-p", "no:cacheprovider", "-o", "addopts=", "-q", "-rs",
             "--tb=short", *(f"tests/api_resources/{file}" for file in FILES)],
            cwd=suite,
            env={**os.environ, "PYTHONPATH": f"{HERE}:{suite}", "TEST_API_BASE_URL": f"{running.url}/v1"},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
    network.engine.check()
    network.close()
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= PASSED
