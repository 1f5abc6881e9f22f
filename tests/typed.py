"""The commands as a person types them, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

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
