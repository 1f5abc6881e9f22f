"""The starter library's recipe: every skill can be trained, and its tests are kept apart from what is trained on."""

from __future__ import annotations

import json

import pytest

from plural.evals import Fingerprint, Task
from plural.train import TrainSettings
from plural.wiring.recipe import read_recipe, to_first_answer

pytest.importorskip("hassil")
pytest.importorskip("cron_descriptor")


def test_every_skill_has_settings_that_the_trainer_takes() -> None:
    recipe = read_recipe()
    skills = [*recipe.skills.values(), *(skill for forms in recipe.forms.values() for skill in forms.values())]
    assert len(skills) > len(recipe.skills) > 10
    for skill in skills:
        assert TrainSettings.of(**skill.settings).learning_rate == skill.settings["learning_rate"]
        assert skill.judges.keys() <= skill.more_tests.keys()
    assert all(name == skill.name for name, skill in recipe.skills.items())


@pytest.mark.parametrize(("name", "count"), [("home", 400), ("toolcall", 60)])
def test_tests_repeat_no_training_row(name: str, count: int) -> None:
    """ "Stop mower" was trained as "stop the mower"; of a dialogue its request counts, whatever came after."""
    skill = read_recipe().skills[name]
    trained = [to_first_answer(row) for row in skill.train_rows()]
    tests = skill.test_rows()
    assert len(tests) == count
    assert not Fingerprint.of(Task.of(name, trained).rows).leaks(Task.of(name, tests, skill.checker).rows)


def test_bfcls_own_checker_judges_by_the_number_of_the_row() -> None:
    pytest.importorskip("bfcl_eval")
    import toolcall

    rows = toolcall.test_rows("simple_python")[:3]
    takes = toolcall.bfcl_judge("simple_python")
    calls = [json.dumps(row["row"]["messages"][1]["tool_calls"]) for row in rows]
    assert [takes(number, answer) for number, answer in enumerate(calls)] == [True] * 3
    assert not takes(0, calls[1])
    assert not takes(0, "I cannot do that.")
