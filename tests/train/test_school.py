"""Many specialists at once: each becomes what it would have become alone, whatever the others do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from plural.errors import NumericError, SettingsError
from plural.models.base import Base
from plural.train import Course, Diverged, Examples, PassSettings, Stepped, Trained, TrainEvent, TrainSettings, train

FP32 = PassSettings(compute="fp32", checkpoint_every=3)
LONG = 55


@pytest.fixture(scope="module")
def courses(examples: Examples) -> list[Course]:
    """Three that differ in all that can differ."""
    some = replace(examples, rows=examples.rows[:17])
    settings: list[dict[str, Any]] = [
        {"rank": 4, "batch_rows": 4, "max_steps": LONG, "patience": 99},
        {"rank": 6, "targets": ("q_proj", "down_proj"), "batch_rows": 3, "max_steps": 20, "decay": "linear", "seed": 3},
        {"rank": 3, "activated": True, "batch_rows": 5, "max_steps": LONG, "rslora": True, "patience": 99},
    ]
    rows = (examples, some, examples)
    said = ("", "Add.", "Add.")
    return [
        Course(name, *each)
        for name, each in zip(
            ("whole", "part", "late"),
            zip(rows, (TrainSettings(learning_rate=5e-3, epochs=99, **one) for one in settings), said, strict=True),
            strict=True,
        )
    ]


def curve(events: Iterable[TrainEvent], name: str) -> list[float]:
    return [event.loss for event in events if isinstance(event, Stepped) and event.name == name]


@pytest.mark.parametrize("at_once", [2048, 60])
def test_each_becomes_what_it_would_have_become_alone(
    tiny: Base, courses: list[Course], tmp_path: Path, at_once: int
) -> None:
    passes = FP32.model_copy(update={"tokens_at_once": at_once})
    together = list(train(tiny, courses, tmp_path / "together", passes))
    for course in courses:
        alone = list(train(tiny, [course], tmp_path / "alone", FP32))
        mine, its = curve(together, course.name), curve(alone, course.name)
        assert len(its) == course.settings.max_steps
        np.testing.assert_allclose(mine, its, rtol=1e-5)
        ends = [next(e for e in each if isinstance(e, Trained) and e.name == course.name) for each in (together, alone)]
        assert ends[0].best_loss == pytest.approx(ends[1].best_loss, rel=1e-5)


@pytest.mark.slow
def test_each_becomes_on_the_real_base_what_it_would_have_become_alone(
    base: Base, examples: Examples, tmp_path: Path
) -> None:
    settings: list[dict[str, Any]] = [
        {"rank": 8, "batch_rows": 4},
        {"rank": 4, "batch_rows": 3, "targets": ("q_proj", "down_proj"), "seed": 3},
        {"rank": 4, "batch_rows": 4, "activated": True},
    ]
    few = replace(examples, rows=examples.rows[:20])
    courses = [
        Course(f"course-{number}", few, TrainSettings(max_steps=6, holdout=0, **one))
        for number, one in enumerate(settings)
    ]
    together = list(train(base, courses, tmp_path / "together", FP32))
    for course in courses:
        alone = list(train(base, [course], tmp_path / "alone", FP32))
        assert len(curve(alone, course.name)) == 6
        np.testing.assert_allclose(curve(together, course.name), curve(alone, course.name), rtol=1e-5)
        mine, its = (
            load_file(tmp_path / folder / course.name / "adapter_model.safetensors") for folder in ("together", "alone")
        )
        for key, array in its.items():
            whole = array.astype(np.float32)
            assert np.linalg.norm(mine[key] - whole) <= 1e-3 * np.linalg.norm(whole), key  # they are half floats


def test_the_weights_after_fifty_steps_are_those_of_a_solo_run(
    tiny: Base, courses: list[Course], tmp_path: Path
) -> None:
    """In fp32, as a checkpoint holds them."""
    lasting = [course for course in courses if course.settings.max_steps == LONG]
    for folder, some in {"together": courses, **{course.name: [course] for course in lasting}}.items():
        events = train(tiny, some, tmp_path / folder, FP32)
        for event in events:
            if isinstance(event, Stepped) and event.step == 50:
                break
        events.close()  # type: ignore[attr-defined]
    for course in lasting:
        name = f"{course.name}.safetensors"
        mine, its = (
            load_file(tmp_path / folder / ".training" / name)["weights"] for folder in ("together", course.name)
        )
        assert np.linalg.norm(mine - its) <= 1e-5 * np.linalg.norm(its)


def test_who_is_done_leaves_and_is_written_at_once(tiny: Base, courses: list[Course], tmp_path: Path) -> None:
    events = train(tiny, courses, tmp_path, FP32)
    first = next(event for event in events if isinstance(event, Trained))
    assert (first.name, first.steps) == ("part", 20)
    assert (tmp_path / "part" / "adapter_model.safetensors").exists()
    rest = list(events)
    assert {event.name for event in rest} == {"whole", "late"}
    assert [event.name for event in rest if isinstance(event, Trained)] == ["whole", "late"]


def test_one_that_diverges_stops_alone_and_is_named_at_the_end(
    tiny: Base, courses: list[Course], tmp_path: Path
) -> None:
    wild = courses[0].settings.model_copy(update={"alpha": 1e38, "learning_rate": 0.5})
    events: list[TrainEvent] = []
    all_of_them = train(tiny, [*courses, replace(courses[0], name="wild", settings=wild)], tmp_path / "all", FP32)
    with pytest.raises(NumericError, match=r"wild .* learning rate of 0\.5.*0\.125"):
        events.extend(all_of_them)
    (fallen,) = [event for event in events if isinstance(event, Diverged)]
    assert fallen.name == "wild"
    assert fallen.step < 10
    assert not (tmp_path / "all" / "wild").exists()
    assert {event.name for event in events if isinstance(event, Trained)} == {"whole", "part", "late"}
    sane = list(train(tiny, courses, tmp_path / "sane", FP32))
    for course in courses:
        np.testing.assert_allclose(curve(events, course.name), curve(sane, course.name), rtol=1e-5)


@pytest.mark.parametrize("after", [7, 22])
@pytest.mark.parametrize("how", ["close", "keyboard", "kill"])
def test_a_school_that_was_cut_off_goes_on_with_the_same_curves(
    tiny: Base, courses: list[Course], tmp_path: Path, how: str, after: int
) -> None:
    """Before one is done and after; the last whole checkpoint is at round 6 or 21."""
    whole = list(train(tiny, courses, tmp_path / "whole", FP32))
    events = train(tiny, courses, tmp_path / "cut", FP32)
    for event in events:
        if isinstance(event, Stepped) and event.name == "late" and event.step == after:
            break
    folder = tmp_path / "cut" / ".training"
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    if how == "keyboard":
        with pytest.raises(KeyboardInterrupt, match=rf"whole at step {after}.* late at step {after}.*Resume"):
            events.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
    else:
        events.close()  # type: ignore[attr-defined]
    if how == "kill":  # what it leaves: the last periodic checkpoints and nothing newer
        for path, content in kept.items():
            path.write_bytes(content)
    rest = list(train(tiny, courses, tmp_path / "cut", FP32, resume=True))
    for course in courses:
        again, all_of_it = curve(rest, course.name), curve(whole, course.name)
        done = len(all_of_it) - len(again)
        assert done == min(after - (after % 3 if how == "kill" else 0), len(all_of_it))
        # The prompts that an activated one leaves to the base are computed anew, beside others than before.
        np.testing.assert_allclose(again, all_of_it[done:], rtol=1e-5 if course.settings.activated else 0)
        if course.settings.activated:
            continue
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            made = (tmp_path / each / course.name / file for each in ("cut", "whole"))
            assert len({path.read_bytes() for path in made}) == 1
    # All are done now, and a training that is resumed says so without training.
    done_events = list(train(tiny, courses, tmp_path / "cut", FP32, resume=True))
    assert not [event for event in done_events if isinstance(event, Stepped)]
    assert [event for event in done_events if isinstance(event, Trained)] == [
        next(event for event in rest if isinstance(event, Trained) and event.name == course.name) for course in courses
    ]


def test_names_are_told_apart(tiny: Base, courses: list[Course], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Two specialists are called 'whole'"):
        next(train(tiny, [courses[0], courses[0]], tmp_path))
    with pytest.raises(SettingsError, match="nothing to train"):
        next(train(tiny, [], tmp_path))
