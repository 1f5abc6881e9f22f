"""`plural memory`: what is remembered is shown, and forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plural.agents.memory import LongTerm
from tests.typed import Plural, typed


@pytest.fixture
def plural(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plural:
    """Runs the command; returns exit code, standard output and standard error."""
    monkeypatch.setenv("PLURAL_MEMORIES", str(tmp_path / "memory.sqlite"))
    monkeypatch.setenv("COLUMNS", "200")
    return typed(monkeypatch, capsys)


@pytest.fixture
def memory(tmp_path: Path) -> LongTerm:
    made = LongTerm(tmp_path / "memory.sqlite")
    made.remember("Ann lives in [Oslo].", source="clerk")
    made.remember("Two and two?\nFour.", kind="result")
    return made


def test_list(plural: Plural, memory: LongTerm) -> None:
    code, out, _ = plural("memory", "list")
    assert code == 0
    header, result, fact = out.splitlines()
    assert header.split() == ["number", "kind", "since", "from", "what"]
    assert "Two and two?..." in result
    assert "Ann lives in [Oslo]." in fact
    assert "clerk" in fact
    code, out, _ = plural("memory", "list", "--kind", "fact", "--json")
    (line,) = out.splitlines()
    assert json.loads(line)["text"] == "Ann lives in [Oslo]."


def test_nothing_is_remembered_at_first(plural: Plural, tmp_path: Path) -> None:
    assert plural("memory", "list", "--json") == (0, "", "")
    assert not (tmp_path / "memory.sqlite").exists()


def test_show_and_forget(plural: Plural, memory: LongTerm, tmp_path: Path) -> None:
    result, fact = memory.all()
    code, out, _ = plural("memory", "show", str(fact.id))
    assert code == 0
    assert out.splitlines()[1] == "Ann lives in [Oslo]."
    assert f"fact {fact.id}, {fact.created[:10]}" in out
    assert plural("memory", "forget", str(fact.id))[:2] == (0, f"Forgot {fact.id}.\n")
    code, _, err = plural("memory", "show", str(fact.id))
    assert code == 2
    assert f"There is no memory {fact.id}" in err
    assert memory.all() == [result]
    other = tmp_path / "other.sqlite"
    code, out, _ = plural("memory", "show", "1", "--file", str(other), "--json")
    assert code == 2
    assert json.loads(out)["error"] == "SettingsError"


def test_words_that_cannot_be(plural: Plural, memory: LongTerm) -> None:
    assert plural("memory", "list", "--kind", "dream")[0] == 2
    assert plural("memory", "forget", "one")[0] == 2
