"""`plural ask --engine vllm:http://...` as a person types it, beside `plural ask`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plural.remote import guard
from plural.wiring.network import Network
from tests.models import tiny
from tests.serve.tiny import served
from tests.typed import typed

Told = Callable[..., tuple[int, list[Any]]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.save_small(tmp_path / "base")
    said = {"BASE": tmp_path / "base", "LIBRARY": tmp_path / "library", "CACHE": tmp_path / "cache", "STARTER": "false"}
    for name, value in {**said, "JOURNAL": "none", "MAX_TOKENS": "8", "THREADS": "1"}.items():
        monkeypatch.setenv(f"PLURAL_{name}", str(value))
    return tmp_path


@pytest.fixture
def told(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    """`plural` with --json: exit code and what each line says."""
    run = typed(monkeypatch, capsys)

    def lines(*words: str) -> tuple[int, list[Any]]:
        code, out, _ = run(*words, "--json")
        return code, [json.loads(line) for line in out.splitlines()]

    return lines


def test_another_engine_is_one_option(home: Path, told: Told) -> None:
    code, mine = told("ask", "Who are you?", "--to", "base")
    assert code == 0
    with Network.open(library=home / "elsewhere", journal=None) as network, served(network) as running:
        where = f"vllm:{running.url}"
        code, theirs = told("ask", "Who are you?", "--to", "base", "--engine", where)
        assert code == 0
        assert network.engine.stats().finished == 1, "it was asked"
        assert theirs[-1]["answer"] == mine[-1]["answer"] != ""
        code, (said,) = told("ask", "x", "--engine", where, "--memory", "2GB")
        assert (code, said["error"]) == (2, "SettingsError")
        assert said["message"].startswith("memory is '2GB', which the engine vllm:")
    code, (said,) = told("ask", "x", "--engine", "llama.cpp")
    assert (code, said["message"]) == (2, "engine is 'llama.cpp'.")


def test_no_vllm_here(home: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLURAL_PEERS", str(home / "peers"))
    monkeypatch.setenv("PATH", str(home))
    code, (said,) = told("ask", "x", "--engine", "vllm")
    assert (code, said["error"]) == (2, "SettingsError")
    assert said["message"].startswith("There is no vLLM")


def test_a_vllm_that_ends_at_once(home: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    program = home / "peers" / "vllm" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho no GPU here, $OMP_NUM_THREADS thread, $VLLM_CPU_OMP_THREADS_BIND\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PLURAL_PEERS", str(home / "peers"))
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    code, (said,) = told("ask", "x", "--engine", "vllm")
    assert (code, said["error"]) == (1, "MachineError")
    assert said["message"] == "vLLM ended with 3; its last words: no GPU here, 1 thread, nobind"


@pytest.mark.parametrize("killed", [False, True], ids=["we are gone", "its guard was killed"])
def test_what_is_started_does_not_outlive_us(killed: bool) -> None:
    """We are gone when our end of its input is, whatever ended us. Ray kills what a worker of it has started."""
    program = "print('here', flush=True); import time; time.sleep(60)"
    guarded = subprocess.Popen(
        [sys.executable, guard.__file__, sys.executable, "-c", program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert guarded.stdin is not None
    assert guarded.stdout is not None
    assert guarded.stdout.readline() == b"here\n"
    if killed:
        guarded.kill()
    else:
        guarded.stdin.close()
    assert guarded.wait(20) == (-signal.SIGKILL if killed else -signal.SIGTERM)
    assert guarded.stdout.read() == b"", "nobody holds it any more"
    guarded.stdout.close()
    guarded.stdin.close()
