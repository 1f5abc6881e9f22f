"""Prompts for practice, and checks that are named, loaded or refused."""

from __future__ import annotations

import itertools
import json
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from plural.errors import DataError, SettingsError
from plural.evals import read_exercises, score
from plural.evals.exercises import gym_dataset

CHECKS = """
def even(row, answer):
    return int(answer) % 2 == row["rest"]

def half(row, answer):
    return 0.5

def odd_one(row, answer):
    return "right"
"""


def write(folder: Path, rows: list[Any]) -> Path:
    (folder / "check.py").write_text(CHECKS)
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_function_is_given_the_line_and_the_answer(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "an even one", "rest": 0}, {"prompt": "an odd one", "rest": 1}])
    found = read_exercises(path, f"{tmp_path}/check.py:even")
    assert [[found.right(row, answer) for answer in ("4", "5")] for row in found.rows] == [[True, False], [False, True]]
    half = read_exercises(path, f"{tmp_path}/check.py:half", threshold=0.5)
    assert half.right(half.rows[0], "")
    half = read_exercises(path, f"{tmp_path}/check.py:half")
    assert not half.right(half.rows[0], "")


async def test_exercises_are_a_task_for_the_scorecard(tmp_path: Path) -> None:
    class Four:
        async def answer(self, messages: Any, tools: Any = ()) -> str:
            return "4"

    path = write(tmp_path, [{"prompt": "an even one", "rest": 0}, {"prompt": "an odd one", "rest": 1}])
    found = read_exercises(path, f"{tmp_path}/check.py:even")
    card = await score(found.task("numbers", found.rows), Four())
    assert (card.value, card.metric, [result.value for result in card.results]) == (
        0.5,
        f"{tmp_path}/check.py:even",
        [1, 0],
    )


def test_a_checker_by_name_compares_with_the_lines_answer(tmp_path: Path) -> None:
    path = write(tmp_path, [{"messages": [{"role": "user", "content": "daily"}], "answer": "0 0 * * *"}])
    found = read_exercises(path, "cron")
    assert found.right(found.rows[0], "0 0 */1 * *")
    assert not found.right(found.rows[0], "daily")


def test_all_bad_lines_are_named(tmp_path: Path) -> None:
    user = {"role": "user", "content": "x"}
    rows: list[Any] = [
        {"prompt": "good", "answer": "0 0 * * *"},
        {"prompt": " ", "answer": "0 0 * * *"},
        ["prompt"],
        {"prompt": "no answer"},
        {"prompt": "bad answer", "answer": "daily"},
        {"prompt": "tools", "answer": "0 0 * * *", "tools": []},
        {"messages": [user, {"role": "assistant", "content": "y"}], "answer": "0 0 * * *"},
        {"question": "x"},
    ]
    with pytest.raises(DataError) as caught:
        read_exercises(write(tmp_path, rows), "cron")
    assert [line for line, _ in caught.value.problems] == [2, 3, 4, 5, 6, 7, 8]
    assert dict(caught.value.problems)[4] == "there is no answer, which the checker cron compares with"
    with pytest.raises(DataError, match="no rows"):
        read_exercises(write(tmp_path, []), "cron")


@pytest.mark.parametrize(
    ("called", "told"),
    [
        ("crom", "No checker is called 'crom'"),
        ("none.py:even", r"no file none\.py"),
        ("{}/check.py:uneven", "no function 'uneven'"),
        ("{}/bad.py:even", "bad.py cannot be run: NameError"),
    ],
)
def test_a_check_that_there_is_not_is_named(tmp_path: Path, called: str, told: str) -> None:
    (tmp_path / "bad.py").write_text("even")
    with pytest.raises(SettingsError, match=told):
        read_exercises(write(tmp_path, [{"prompt": "x"}]), called.format(tmp_path))


def test_a_check_that_fails_or_gives_no_score_names_line_and_answer(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "x", "rest": 0}])
    found = read_exercises(path, f"{tmp_path}/check.py:even")
    with pytest.raises(SettingsError, match=r"failed in line 1: ValueError.*'four'"):
        found.right(found.rows[0], "four")
    found = read_exercises(path, f"{tmp_path}/check.py:odd_one")
    with pytest.raises(SettingsError, match="gave 'right' in line 1"):
        found.right(found.rows[0], "four")


def test_a_dataset_of_reasoning_gym_scores_its_own_rows(tmp_path: Path) -> None:
    """Without what its other datasets need; `family_relationships` and `list_functions` lie in other folders."""
    spec = PathFinder.find_spec("reasoning_gym")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    names = ("chain_sum", "family_relationships", "list_functions")
    rows = [
        {"prompt": entry["question"], "answer": entry["answer"], "metadata": entry["metadata"]}
        for name in names
        for entry in itertools.islice(gym_dataset(folder, name), 3)
    ]
    found = read_exercises(write(tmp_path, rows), "reasoning_gym")
    assert {row["metadata"]["source_dataset"] for row in rows} == set(names)
    for row in found.rows:
        assert found.right(row, row.expected)
        assert not found.right(row, "nothing")
    unknown = [{**rows[0], "metadata": {"source_dataset": "chain_some"}}]
    found = read_exercises(write(tmp_path, unknown), "reasoning_gym")
    with pytest.raises(SettingsError, match="no dataset 'chain_some'"):
        found.right(found.rows[0], "4")
