# ruff: noqa: F401, F811 - fixtures of test_cli
"""A training that is cut off at any moment goes on, and what comes out is what would have come out."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from plural.specialists import Library
from plural.wiring import training

from .test_cli import Plural, home, plural

SCHOOL = """
max_steps = 12
evaluate_every = 4
checkpoint_every = 3

[one]
data = "rows.jsonl"
rank = 4

[two]
data = "more.jsonl"
rank = 3
seed = 1
"""
WORDS = ("train", "school.toml", "--json")


@pytest.fixture
def library(home: Path) -> Library:
    """An empty one, and the files of a school of two."""
    rows = [{"prompt": f"{n} less {n % 5}?", "answer": f"left {n - n % 5}."} for n in range(40)]
    (home / "more.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (home / "school.toml").write_text(SCHOOL)
    found = Library(home / "library")
    for name in found.names():
        found.remove(name)
    return found


def stages(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def cut_off(plural: Plural, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """While the second one is scored."""
    real = training.evaluate

    def killed(network: Any, specialist: Any, exam: Any) -> Any:
        if specialist.name == "two":
            raise KeyboardInterrupt("Stopped.")
        return real(network, specialist, exam)

    with monkeypatch.context() as cut:
        cut.setattr(training, "evaluate", killed)
        code, out, problems = plural(*words)
        assert code == 130, out + problems


@pytest.mark.parametrize("replace", [False, True])
def test_what_was_published_before_a_kill_is_not_trained_or_published_again(
    plural: Plural, home: Path, library: Library, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    words = (*WORDS, *(["--replace"] if replace else []))
    if replace:
        assert plural(*words)[0] == 0
    cut_off(plural, monkeypatch, *words)
    before = library.get("one").card
    assert before.version == (2 if replace else 1)
    code, out, problems = plural(*words, "--resume")
    assert code == 0, out + problems
    assert not [stage for stage in stages(out) if "of" in stage["facts"]]  # nothing is trained again
    assert {stage["name"] for stage in stages(out) if stage["stage"].startswith("scoring")} == {"two"}
    assert [stage["name"] for stage in stages(out) if stage["stage"] == "publishing"] == ["one", "two"]
    assert library.get("one").card == before
    assert library.get("two").card.version == before.version
    assert not (home / "cache" / "training" / "one").exists()
    if not replace:  # what is done is not gone on with
        code, out, _ = plural(*words, "--resume")
        assert (code, "There is a specialist 'one'" in stages(out)[-1]["message"]) == (2, True)


def test_who_was_replaced_by_then_is_still_what_others_are_trained_further_from(
    plural: Plural, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plural(*WORDS)[0] == 0
    first = library.get("one")
    words = (*WORDS, "--from", "one", "--replace", "--rank", "4")
    cut_off(plural, monkeypatch, *words)
    assert library.get("one").digest != first.digest
    code, out, problems = plural(*words, "--resume")
    assert code == 0, out + problems
    assert not [stage for stage in stages(out) if "of" in stage["facts"]]
    for name in ("one", "two"):
        lineage = library.get(name).card.lineage
        assert lineage is not None
        assert lineage.parent == first.digest


# ------------------------------------------------------------------------------------------------------------- SIGKILL
def killed_after(lines: int) -> int:
    """Ends a process of its own by SIGKILL once it has told so much; its exit code."""
    command = [sys.executable, "-m", "plural.cli", *WORDS]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for number, _ in enumerate(process.stdout, 1):
            if number == lines:
                process.kill()
    return process.returncode


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))])
def test_a_process_that_is_killed_at_any_moment_goes_on_to_the_same_result(
    plural: Plural, home: Path, library: Library, seed: int
) -> None:
    code, out, problems = plural(*WORDS, "--library", "whole")
    assert code == 0, problems
    whole = Library(home / "whole")
    try:
        lines = random.Random(seed).randrange(1, len(out.splitlines()))
        done = killed_after(lines)
        assert done == -signal.SIGKILL or (done == 0 and library.names() == ["one", "two"]), lines
        if done != 0:
            code, out, problems = plural(*WORDS, "--resume")
            assert code == 0, (lines, out, problems)
        for name in ("one", "two"):
            mine, its = library.get(name), whole.get(name)
            mine.verify()
            for key, array in load_file(mine.path / "adapter_model.safetensors").items():
                other = load_file(its.path / "adapter_model.safetensors")[key].astype(np.float32)
                assert np.linalg.norm(array - other) <= 1e-4 * np.linalg.norm(other), (lines, key)
            for who, scores in its.card.scores.items():
                found = [(score.by, score.n, score.value) for score in mine.card.scores[who]]
                assert found == [(score.by, score.n, score.value) for score in scores], lines
            assert mine.card.evidence == its.card.evidence
            assert (mine.card.output, mine.card.examples) == (its.card.output, its.card.examples)
    finally:
        for name in whole.names():
            whole.remove(name)


# --------------------------------------------------------------------------------------------------------- a full disk
def fill(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Leaves no room for a file with `part` in its path."""
    real = Path.open

    def opened(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if "w" in mode and part in str(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", opened)


def refused(plural: Plural, *words: str) -> dict[str, Any]:
    """What is said when there is no room."""
    code, out, problems = plural(*words)
    assert code == 1, out + problems
    said = stages(out)[-1]
    assert said["error"] == "StorageError"
    assert "No space left on device" in said["message"]
    assert said["hint"]
    return said


@pytest.mark.parametrize(
    "part",
    [
        ".training/.two.safetensors",  # a checkpoint
        "two.adapter/.adapter_model.safetensors",
        "two/.heldout.jsonl",
        "two/.trained.safetensors",
        "training/two/.specialist.json",
        "library/.staging",
    ],
)
def test_a_disk_that_fills_is_said_and_what_was_there_stays(
    plural: Plural, home: Path, library: Library, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    with monkeypatch.context() as full:
        fill(full, part)
        said = refused(plural, *WORDS)
    assert ("library" if "library" in part else "two") in said["message"]
    early = ".training" in part or "adapter" in part or "library" in part
    assert library.names() == ([] if early else ["one"])
    assert not list((home / "cache" / "training").rglob("*.part"))
    code, out, problems = plural(*WORDS, "--resume")
    assert code == 0, out + problems
    assert library.names() == ["one", "two"]
    for one in library:
        one.verify()


@pytest.mark.parametrize("part", [".round-1.jsonl", "round-1/.specialist.json", "round-1/.heldout.jsonl"])
def test_practice_on_a_full_disk_publishes_nothing(
    plural: Plural, home: Path, library: Library, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    prompts = [{"prompt": f"no {n}: which digit?", "answer": "1"} for n in range(30)]
    (home / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    (home / "digits.json").write_text('["2", "0", "1"]')
    words = ("improve", "digit", "prompts.jsonl", "--checker", "exact", "--contract", "digits.json", "--json")
    with monkeypatch.context() as full:
        fill(full, part)
        said = refused(plural, *words, "--learning-rate", "0.01", "--max-steps", "20", "--rounds", "1")
    assert part.replace("/.", "/").removeprefix(".") in said["message"]
    assert library.names() == []
