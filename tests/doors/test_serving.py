"""`plural serve` and `plural keys` as a person types them; and a server on the real base, from its start to SIGTERM."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from plural.serve.keys import Keyring
from tests.typed import Plural, typed

SERVING = Path(__file__).parents[2] / "docs" / "serving.md"
CRON: Any = [{"role": "user", "content": "every weekday at 7:30 in the morning"}]


@pytest.fixture
def plural(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plural:
    return typed(monkeypatch, capsys)


def test_keys_are_made_listed_and_taken_back(plural: Plural, tmp_path: Path) -> None:
    file = str(tmp_path / "keys.json")
    code, out, _ = plural(
        "keys", "add", "--scope", "use", "--scope", "train", "--note", "Ann", "--keys", file, "--json"
    )
    assert code == 0
    made = json.loads(out)
    found = Keyring(path=Path(file)).find(made["key"])
    assert found is not None
    assert found.scopes == ("use", "train")
    assert "Ann" in plural("keys", "list", "--keys", file)[1]
    listed = plural("keys", "list", "--keys", file, "--json")[1]
    assert json.loads(listed)["id"] == made["id"]
    assert "sha256" not in listed
    assert plural("keys", "remove", made["id"], "--keys", file)[0] == 0
    assert Keyring(path=Path(file)).find(made["key"]) is None
    assert plural("keys", "remove", made["id"], "--keys", file)[0] == 2
    assert plural("keys", "add", "--scope", "everything", "--keys", file)[0] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "0.0.0.0"), "without an API key"),
        (("--max-inside", "0"), "max_inside"),
        (("--tls-cert", "x.pem"), "tls_key"),
        (("--allow-origin", "*"), "one by one"),
    ],
)
def test_what_cannot_be_served_is_said_before_the_base_is_read(
    plural: Plural, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    code, _, told = plural("serve", "--base", "/nowhere", "--keys", str(tmp_path / "none.json"), *words)
    assert code == 2
    assert said in told


# ------------------------------------------------------------------------------------------------------- the real base
@pytest.fixture(scope="module")
def command(base: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The server with the starter library; the fixture `base` has prepared the cache."""
    home = tmp_path_factory.mktemp("serve")
    options = ["--port", "0", "--library", str(home / "library"), "--data", str(home / "data")]
    return [sys.executable, "-m", "plural.cli", "serve", *options, "--keys", str(home / "keys.json"), "--json"]


@pytest.fixture(scope="module")
def process(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["listening"]
        process.kill()


def test_the_examples_of_the_documentation_run(process: tuple[Any, str]) -> None:
    _, url = process
    blocks = re.findall(r"```python\n(.*?)```", SERVING.read_text(), flags=re.DOTALL)
    # Microsoft's is run in an environment of its own, by tests/serve/test_clients.py.
    examples = [block for block in blocks if "base_url" in block and "agent_framework" not in block]
    assert len(examples) == 2
    for example in examples:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(example.replace("http://127.0.0.1:8000", url), {})
        assert "30 7 * * 1-5" in said.getvalue()
    (curl,) = re.findall(r"curl http://127.0.0.1:8000(\S+) .*?-d '(.*?)'", SERVING.read_text(), flags=re.DOTALL)
    answer = httpx.post(url + curl[0], content=curl[1], headers={"Content-Type": "application/json"}, timeout=60)
    assert answer.json()["choices"][0]["message"]["content"] == "30 7 * * 1-5"


def test_it_ends_with_what_is_under_way_and_logs_json(process: tuple[Any, str]) -> None:
    server, url = process
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        assert {"network", "base", "cron"} <= {model.id for model in client.models.list()}
        stream = client.chat.completions.create(
            model="base", messages=CRON, max_tokens=60, stream=True, extra_body={"ignore_eos": True}
        )
        next(stream)
        server.send_signal(signal.SIGTERM)
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"
    _, log = server.communicate(timeout=60)
    assert server.returncode == 0
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert lines[-1]["path"] == "/v1/chat/completions"
    assert lines[-1]["completion"] == 60
