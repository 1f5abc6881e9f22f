"""A sweep is one training of all its candidates, in which the worse half stops at every rung."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plural.errors import NumericError, SettingsError
from plural.models.base import Base
from plural.train import (
    Course,
    Diverged,
    Examples,
    Halved,
    PassSettings,
    Stepped,
    Swept,
    Trained,
    TrainEvent,
    TrainSettings,
    train,
)
from plural.train.race import keeps, rungs

FP32 = PassSettings(compute="fp32", checkpoint_every=3)
RATES = (1e-4, 1e-2, 1e-3, 5e-3, 1e-5)


@pytest.fixture(scope="module")
def sweep(examples: Examples) -> list[Course]:
    """Five learning rates, one of them activated, one with twice the rows in half the steps."""
    settings = [TrainSettings(rank=3, batch_rows=2, learning_rate=rate, max_steps=16, patience=99) for rate in RATES]
    settings[3] = settings[3].model_copy(update={"activated": True})
    settings[4] = settings[4].model_copy(update={"batch_rows": 4, "max_steps": 8})
    return [Course(f"sums--{i}", examples, each, sweep="sums") for i, each in enumerate(settings, 1)]


def steps(events: Iterable[TrainEvent]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for event in events:
        if isinstance(event, Stepped):
            found.setdefault(event.name, []).append(event.loss)
    return found


def of(events: Iterable[TrainEvent], kind: type) -> list[TrainEvent]:
    return [event for event in events if isinstance(event, kind)]


@given(candidates=st.integers(2, 200), of=st.integers(1, 3_000))
def test_half_go_on_after_each_rung_and_rungs_come_in_the_first_half(candidates: int, of: int) -> None:
    left, places = keeps(candidates), rungs(of, len(keeps(candidates)))
    assert [candidates, *left][-2:] == [2, 1]
    assert all(after == (before + 1) // 2 for before, after in zip([candidates, *left], left, strict=False))
    assert list(places) == sorted(places)
    assert len(places) == len(left)
    assert places[0] >= 1
    assert places[-1] == (of + 1) // 2
    assert places[0] >= min(16, of // 4)


def test_each_runs_as_it_would_alone_until_it_is_stopped_and_one_wins(
    tiny: Base, sweep: list[Course], examples: Examples, tmp_path: Path
) -> None:
    other = Course("other", examples, TrainSettings(rank=2, batch_rows=4, max_steps=9))
    events = list(train(tiny, [*sweep, other], tmp_path / "sweep", FP32))
    halved, (swept,) = of(events, Halved), of(events, Swept)
    assert isinstance(swept, Swept)
    assert [(len(one.losses), len(one.stopped)) for one in halved] == [(5, 2), (3, 1), (2, 1)]  # type: ignore[attr-defined]
    for one in halved:
        assert isinstance(one, Halved)
        worst = sorted(one.losses, key=lambda name: one.losses[name])[-len(one.stopped) :]
        assert set(one.stopped) == set(worst)
    curves = steps(events)
    for course in sweep:
        alone = steps(train(tiny, [replace(course, sweep="")], tmp_path / "alone", FP32))[course.name]
        np.testing.assert_allclose(curves[course.name], alone[: len(curves[course.name])], rtol=1e-5)
    lengths = {name: len(curve) for name, curve in curves.items()}
    assert rungs(16, 3) == (4, 6, 8)
    assert lengths["sums--5"] == rungs(8, 3)[0]  # a rate of 1e-5 learns nothing, and its rungs are its own
    assert sorted(length for name, length in lengths.items() if name.startswith("sums"))[1:] == [4, 6, 8, 16]
    assert swept.winner == max(lengths, key=lambda name: lengths[name])
    won = next(event for event in events if isinstance(event, Trained) and event.name == swept.winner)
    assert (won.path, won.steps) == (tmp_path / "sweep" / "sums", 16)
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {".training", "sums", "other"}
    assert [one.beaten for one in swept.tried] == [False, True, True, True, True]
    assert [one.steps for one in swept.tried] == sorted((one.steps for one in swept.tried), reverse=True)
    assert swept.tried[0].loss == won.best_loss


@pytest.fixture(scope="module")
def whole(tiny: Base, sweep: list[Course], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TrainEvent]]:
    """The plain candidates, and where the best of them is."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, list(train(tiny, _plain(sweep), folder, FP32))


def _plain(sweep: Sequence[Course]) -> list[Course]:
    return [course for course in sweep if not course.settings.activated]


@pytest.mark.parametrize("after", [2, 5, 14])
@pytest.mark.parametrize("kill", [False, True])
def test_a_sweep_that_was_cut_off_ends_as_if_it_had_not_been(
    tiny: Base, sweep: list[Course], whole: tuple[Path, list[TrainEvent]], tmp_path: Path, after: int, kill: bool
) -> None:
    """Before the first rung, between two, and when one is left. A kill leaves the last checkpoints, nothing newer."""
    plain, (folder, expected) = _plain(sweep), whole
    events = train(tiny, plain, tmp_path / "cut", FP32)
    told: list[TrainEvent] = []
    for event in events:
        told.append(event)
        if isinstance(event, Stepped) and event.step == after:
            break
    work = tmp_path / "cut" / ".training"
    kept = {path: path.read_bytes() for path in work.iterdir()} if work.exists() else {}
    events.close()  # type: ignore[attr-defined]
    if kill:
        for path in work.iterdir():
            path.unlink()
        for path, content in kept.items():
            path.write_bytes(content)
    rest = list(train(tiny, plain, tmp_path / "cut", FP32, resume=True))
    assert of(rest, Swept) == of(expected, Swept)
    assert of(told, Halved) + of(rest, Halved) == of(expected, Halved)
    for name, curve in steps(rest).items():
        assert curve == steps(expected)[name][-len(curve) :]
    made = (each / "sums" / "adapter_model.safetensors" for each in (tmp_path / "cut", folder))
    assert len({path.read_bytes() for path in made}) == 1
    again = list(train(tiny, plain, tmp_path / "cut", FP32, resume=True))
    assert not of(again, Stepped)
    assert of(again, Swept) == of(expected, Swept)
    with pytest.raises(SettingsError, match="rivals"):
        list(train(tiny, plain[:-1], tmp_path / "cut", FP32, resume=True))


def test_a_candidate_that_diverges_is_beaten_and_no_error_while_others_stand(
    tiny: Base, sweep: list[Course], tmp_path: Path
) -> None:
    wild = sweep[0].settings.model_copy(update={"alpha": 1e38, "learning_rate": 0.5})
    courses = [replace(sweep[0], settings=wild), *sweep[1:3]]
    events = list(train(tiny, courses, tmp_path / "sweep", FP32))
    assert [event.name for event in of(events, Diverged)] == ["sums--1"]
    (swept,) = of(events, Swept)
    assert isinstance(swept, Swept)
    assert swept.winner == "sums--2"
    assert swept.tried[-1].name == "sums--1"
    again = list(train(tiny, courses, tmp_path / "sweep", FP32, resume=True))
    assert not of(again, Diverged)
    assert of(again, Swept) == [swept]
    others = [replace(courses[0], name=f"sums--{i}", settings=wild.model_copy(update={"rank": i})) for i in (1, 2)]
    with pytest.raises(NumericError, match=r"sums--\d .*learning rate of 0\.5"):
        list(train(tiny, others, tmp_path / "none", FP32))


@pytest.mark.parametrize(
    ("changed", "told"), [({"seed": 7}, "same held-out rows"), ({"holdout": 0.0}, "same held-out rows")]
)
def test_what_cannot_be_compared_is_refused(
    tiny: Base, sweep: Sequence[Course], tmp_path: Path, changed: dict[str, float], told: str
) -> None:
    courses = [sweep[0], replace(sweep[1], settings=sweep[1].settings.model_copy(update=changed))]
    with pytest.raises(SettingsError, match=told):
        next(train(tiny, courses, tmp_path))
    with pytest.raises(SettingsError, match="called 'sums'"):
        next(train(tiny, [sweep[0], replace(sweep[1], name="sums", sweep="")], tmp_path))
