"""The commands as a person types them, in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plural import cli

# (exit code, standard output, standard error with its line breaks taken out)
Plural = Callable[..., tuple[int, str, str]]


def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plural:
    """`plural`, for words that would follow it on the command line."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["plural", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as leave:
            code = int(leave.code or 0)
        said = capsys.readouterr()
        return code, said.out, " ".join(said.err.split())

    return run


def typed_at(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, max_tokens: int = 8
) -> Plural:
    """`plural` in `home`, where its base lies and everything it keeps, and whose modules it can import."""
    for name, value in {
        "BASE": home / "base",
        "LIBRARY": home / "library",
        "CACHE": home / "cache",
        "MEMORIES": home / "memory.sqlite",
        "JOURNAL": home / "journal.db",
        "STARTER": "false",
        "MAX_TOKENS": max_tokens,
        "THREADS": 1,
    }.items():
        monkeypatch.setenv(f"PLURAL_{name}", str(value))
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    return typed(monkeypatch, capsys)


def write_sums(path: Path) -> None:
    """Forty rows to train on."""
    rows = [{"prompt": f"{n} and {n % 7}?", "answer": f"sum {n + n % 7}."} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
