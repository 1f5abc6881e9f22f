"""Preferences: the losses are those of the paper's formula in transformers and peft, beside whoever else is trained."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plural.errors import DataError, SettingsError
from plural.models.base import Base
from plural.specialists import AdapterWeights, read_adapter
from plural.train import (
    Course,
    Evaluated,
    Examples,
    PassSettings,
    Stepped,
    Trained,
    TrainEvent,
    TrainSettings,
    TrainStarted,
    read_examples,
    train,
)
from plural.train.lora import Lora
from plural.train.rows import encode

from . import reference

FP32 = PassSettings(compute="fp32", checkpoint_every=3)
QUICK: dict[str, Any] = {"rank": 4, "batch_rows": 4, "learning_rate": 5e-3, "beta": 0.3}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """Prompts of different lengths, some with two pairs; in every third one more turns come before."""
    rows: list[dict[str, Any]] = []
    for n in range(24):
        row: dict[str, Any] = {"chosen": f"yes {n % 4}", "rejected": "no" * (1 + n % 3)}
        if n % 3:
            rows.append({"prompt": f"is it {n // 2} " + "so " * (n % 5), **row})
        else:
            before = [("user", "ask"), ("assistant", "ask what?"), ("user", f"about {n}")]
            rows.append({"messages": [{"role": role, "content": text} for role, text in before], **row})
    return written(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


def written(path: Path, rows: Iterable[dict[str, Any]]) -> Examples:
    path.write_text("\n".join(map(json.dumps, rows)))
    return read_examples(path)


@pytest.fixture(scope="module")
def start(tiny: Base, examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> AdapterWeights:
    """An adapter that was trained on other rows."""
    folder = tmp_path_factory.mktemp("start")
    list(train(tiny, [Course("first", examples, TrainSettings(rank=4, batch_rows=4, max_steps=8))], folder, FP32))
    return read_adapter(folder / "first", tiny.shape)


def curve(events: Iterable[TrainEvent], name: str) -> list[float]:
    return [event.loss for event in events if isinstance(event, Stepped) and event.name == name]


@pytest.mark.parametrize("at_once", [2048, 60])
@pytest.mark.parametrize("further", [False, True])
def test_the_curve_is_the_papers_in_transformers_and_peft(
    tiny: Base, pairs: Examples, start: AdapterWeights, tmp_path: Path, at_once: int, further: bool
) -> None:
    settings = TrainSettings(**QUICK, holdout=0, max_steps=12)
    course = Course("taste", pairs, settings, start=start if further else None)
    ours = curve(train(tiny, [course], tmp_path, FP32.model_copy(update={"tokens_at_once": at_once})), "taste")
    adapter = replace(start.config, targets=settings.targets)
    fresh = Lora(tiny.config, adapter, seed=settings.seed, device=tiny.decoder.device).weights()
    theirs = reference.preference_losses(
        reference.as_transformers(tiny),
        start if further else fresh,
        encode(tiny, pairs, ""),
        settings,
        from_base=not further,
    )
    assert ours[0] == pytest.approx(np.log(2), rel=1e-5)
    assert ours[-1] < 0.6 * ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_only_the_last_answer_of_a_conversation_is_compared(tiny: Base, pairs: Examples) -> None:
    for invocation in ((), tiny.chat.invocation()):
        rows = encode(tiny, pairs, "", invocation)
        assert len(rows) == 2 * len(pairs.rows)
        for example, chosen, rejected in zip(pairs.rows, rows[::2], rows[1::2], strict=True):
            for row, message in ((chosen, example.messages[-1]), (rejected, example.rejected)):
                assert message is not None
                said = tiny.tokenizer.decode([row.ids[place] for place in row.targets])
                assert said.startswith(message.content)
                assert row.line == example.line
                assert bool(row.offset) == bool(invocation)


def test_a_prompt_is_computed_once_for_both_answers(tiny: Base, tmp_path: Path) -> None:
    long = "a long question about many things"
    pairs = written(tmp_path / "p.jsonl", [{"prompt": long + str(i), "chosen": "y", "rejected": "n"} for i in range(4)])
    (step,) = [
        event
        for event in train(tiny, [Course("taste", pairs, TrainSettings(holdout=0, max_steps=1))], tmp_path, FP32)
        if isinstance(event, Stepped)
    ]
    rows = encode(tiny, pairs, "")
    once = sum(row.targets[0] - 1 for row in rows[::2])  # the last token of a prompt is the answer's first input
    rest = sum(len(row.acting) - row.targets[0] + 1 for row in rows)
    assert step.computed == 2 * (once + rest)  # eight pairs of a step are the four of the file, twice


def test_preferences_and_examples_are_learned_in_one_pass_as_they_would_be_alone(
    tiny: Base, pairs: Examples, examples: Examples, start: AdapterWeights, tmp_path: Path
) -> None:
    more = {"max_steps": 20, "patience": 99}
    courses = [
        Course("taste", pairs, TrainSettings(**QUICK, **more)),
        Course("late", pairs, TrainSettings(**QUICK, **more, activated=True)),
        Course("further", pairs, TrainSettings(batch_rows=2, max_steps=7), start=start),
        Course("sums", examples, TrainSettings(rank=3, batch_rows=4, **more)),
    ]
    together = list(train(tiny, courses, tmp_path / "together", FP32))
    for course in courses:
        alone = list(train(tiny, [course], tmp_path / "alone", FP32))
        np.testing.assert_allclose(curve(together, course.name), curve(alone, course.name), rtol=1e-5)
    looks = [event for event in together if isinstance(event, Evaluated)]
    assert {event.accuracy for event in looks if event.name == "sums" or event.step == 0} == {None}
    assert [event.accuracy for event in looks if event.name == "taste"][-1] == 1.0
    further = next(event for event in together if isinstance(event, Trained) and event.name == "further")
    assert (further.settings["rank"], further.settings["beta"], further.settings["learning_rate"]) == (4, 0.1, 2e-4)
    made = read_adapter(tmp_path / "together" / "further", tiny.shape)
    assert (made.config.rank, made.config.alpha) == (start.config.rank, start.config.alpha)
    begun = next(event for event in together if isinstance(event, TrainStarted) and event.name == "taste")
    assert begun.rows + begun.holdout_rows == 24


def test_a_cut_off_training_keeps_what_it_compares_with(
    tiny: Base, pairs: Examples, start: AdapterWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course("taste", pairs, TrainSettings(**QUICK, max_steps=12), start=start)
    whole = curve(train(tiny, [course], tmp_path / "whole", FP32), "taste")
    events = train(tiny, [course], tmp_path / "cut", FP32)
    for event in events:
        if isinstance(event, Stepped) and event.step == 7:
            break
    events.close()  # type: ignore[attr-defined]
    rest = curve(train(tiny, [course], tmp_path / "cut", FP32, resume=True), "taste")
    assert rest == whole[7:]
    other = replace(start, digest="sha256:other")
    with pytest.raises(SettingsError, match="start"):
        next(train(tiny, [replace(course, start=other)], tmp_path / "cut", FP32, resume=True))


def test_training_further_begins_where_the_adapter_ended(tiny: Base, examples: Examples, tmp_path: Path) -> None:
    course = Course("first", examples, TrainSettings(rank=4, batch_rows=4, max_steps=40, learning_rate=1e-2))
    *_, first = train(tiny, [course], tmp_path, FP32)
    start = read_adapter(tmp_path / "first", tiny.shape)
    assert isinstance(first, Trained)
    for name, rate in (("second", None), ("wild", 0.5)):
        settings = TrainSettings.of(batch_rows=4, max_steps=4, learning_rate=rate, evaluate_every=2)
        events = list(train(tiny, [replace(course, name=name, settings=settings, start=start)], tmp_path, FP32))
        look = next(event for event in events if isinstance(event, Evaluated))
        assert look.holdout_loss == pytest.approx(first.best_loss, rel=1e-4)  # it is written in 16 bits
        made, last = read_adapter(tmp_path / name, tiny.shape), events[-1]
        assert isinstance(last, Trained)
        if rate is None:
            assert last.settings["learning_rate"] == 2e-4
            assert last.best_loss is not None
            assert last.best_loss < look.holdout_loss
        else:  # where nothing gets better, it stays as it was
            assert (last.best_loss, made.digest) == (look.holdout_loss, start.digest)


def test_what_contradicts_the_rows_or_the_adapter_is_refused(
    tiny: Base, pairs: Examples, examples: Examples, start: AdapterWeights, tmp_path: Path
) -> None:
    for course, told in (
        (Course("a", examples, TrainSettings(beta=0.2)), r"beta is 0\.2, but .* has no rejected"),
        (Course("a", pairs, TrainSettings(rank=16), start=start), "rank is 16, but .* has 4"),
        (Course("a", pairs, TrainSettings(activated=True), start=start), "activated is True, but .* has False"),
        (
            Course("a", pairs, start=replace(start, tensors=dict(list(start.tensors.items())[1:]))),
            "not the same rank and linears",
        ),
    ):
        with pytest.raises(SettingsError, match=told):
            next(train(tiny, [course], tmp_path, FP32))


def test_bad_preferences_are_named_by_line_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    rows = [
        good,
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        {"prompt": "a", "chosen": "b", "rejected": 3},
        {"prompt": "a", "answer": "b"},
        {**good, "messages": []},
        {"messages": [{"role": "assistant", "content": "x"}], "chosen": "b", "rejected": "c"},
        {"messages": [{"role": "user", "content": "x"}], "chosen": "b", "rejected": " "},
        {"prompt": "a", "chosen": "b"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError) as caught:
        read_examples(path)
    assert [line for line, _ in caught.value.problems] == [2, 3, 4, 5, 6, 7, 8]
    said = dict(caught.value.problems)
    assert said[2] == "has 'b' both chosen and rejected"
    assert said[3] == "rejected is int, not text"
    assert said[4] == "has no rejected answer; line 1 has a rejected answer"
    assert "before the assistant's" in said[6]
