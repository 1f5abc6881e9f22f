"""Test rows that repeat training rows are found; others are not taken for them."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plural.errors import DataError, SpecialistError
from plural.evals import Fingerprint, Leak, Row, Task, refuse


def words(drawn: random.Random, count: int) -> list[str]:
    return ["".join(drawn.choices(string.ascii_lowercase, k=drawn.randint(2, 9))) for _ in range(count)]


def rows(*pairs: tuple[str, str]) -> Sequence[Row]:
    return Task.of("t", [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]).rows


def leaks(tested: tuple[str, str], trained: tuple[str, str]) -> list[Leak]:
    return Fingerprint.of(rows(("something else", "x"), trained)).leaks(rows(tested))


@pytest.mark.parametrize(
    ("tested", "trained"),
    [
        ("Turn on the lights in the kitchen", "Turn on the lights in the kitchen"),
        ("  turn ON the lights,\tin the kitchen!", "Turn on the lights in the kitchen."),
        ("Ｔｕｒｎ on the “lights”", "turn on the “lights”"),
    ],
)
def test_the_same_request_is_found_whatever_its_layout_and_answer(tested: str, trained: str) -> None:
    assert leaks((tested, "other"), (trained, "answer")) == [Leak(1, 2, exact=True)]


@pytest.mark.parametrize(
    ("tested", "trained"),
    [
        ("Turn on the light in the kitchen now", "Turn on the lights in the kitchen now"),
        ("The film was a wonderful piece of work by him", "This film was a wonderful piece of work by him"),
    ],
)
def test_nearly_the_same_request_with_the_same_answer_is_found(tested: str, trained: str) -> None:
    assert leaks((tested, "Yes."), (trained, "yes")) == [Leak(1, 2, exact=False)]
    assert leaks((tested, "no"), (trained, "yes")) == []


@pytest.mark.parametrize(
    ("tested", "trained"),
    [
        ("What is 12 + 7, if you please?", "What is 12 + 8, if you please?"),
        ("What is 12 + 7, if you please?", "What is 12 * 7, if you please?"),
        ("What is -3, doubled and doubled once more?", "What is 3, doubled and doubled once more?"),
        ("Turn on the light in the kitchen", "Turn on the fan in the bedroom"),
        ("a", "b"),
    ],
)
def test_another_question_is_another_question(tested: str, trained: str) -> None:
    assert leaks((tested, "same"), (trained, "same")) == []


def test_what_most_rows_share_does_not_make_them_alike() -> None:
    preamble = "You are given a sentence. Say whether it speaks well of the film, in one word, yes or no. Sentence: "
    drawn = random.Random(0)
    texts = [" ".join(words(drawn, 5)) for _ in range(200)]
    trained = rows(*[(preamble + text, "yes") for text in texts[:100]])
    tested = rows(*[(preamble + text, "yes") for text in texts[100:]])
    assert Fingerprint.of(trained).leaks(tested) == []
    assert len(Fingerprint.of(trained).leaks(trained)) == 100


def overlap(one: str, other: str) -> float:
    first, second = ({text[at : at + 4] for at in range(len(text) - 3)} for text in (one, other))
    return len(first & second) / len(first | second)


def test_near_rows_are_found_as_surely_as_the_module_says() -> None:
    drawn = random.Random(1)
    texts = [" ".join(words(drawn, 30)) for _ in range(300)]
    trained = Fingerprint.of(rows(*[(text, "yes") for text in texts]))
    near: list[bool] = []
    far: list[bool] = []
    for changed in range(1, 10):
        made = []
        for text in texts:
            changing = text.split()
            for place in drawn.sample(range(30), changed):
                changing[place] = words(drawn, 1)[0]
            made.append(" ".join(changing))
        found = {leak.line for leak in trained.leaks(rows(*[(text, "yes") for text in made]))}
        for line, (text, original) in enumerate(zip(made, texts, strict=True), start=1):
            if overlap(text, original) >= 0.8:
                near.append(line in found)
            elif overlap(text, original) <= 0.55:
                far.append(line in found)
    assert min(len(near), len(far)) > 200
    assert sum(near) >= 0.95 * len(near)
    assert sum(far) <= 0.02 * len(far)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=30))
def test_every_row_repeats_itself_and_a_fingerprint_survives_its_file(texts: list[str]) -> None:
    these = rows(*[(text + " x", "a") for text in texts])
    again = Fingerprint.from_bytes(Fingerprint.of(these).to_bytes(), "file")
    found = again.leaks(these)
    assert [leak.line for leak in found] == [row.line for row in these]
    assert all(leak.exact and leak.trained <= leak.line for leak in found)
    groups = again.groups()
    assert all(first <= index for index, first in enumerate(groups))
    for leak in found:
        assert groups[leak.line - 1] == groups[leak.trained - 1]


def test_rows_that_repeat_each_other_are_one_group() -> None:
    these = rows(
        ("Turn on the light in the kitchen now", "yes"),
        ("What is two?", "2"),
        ("Turn on the lights in the kitchen now", "yes"),
        ("what is two", "zwei"),
    )
    assert Fingerprint.of(these).groups() == [0, 1, 0, 1]


def test_tools_are_part_of_the_question() -> None:
    def with_tool(name: str) -> Sequence[Row]:
        call = {"role": "assistant", "tool_calls": [{"name": name, "arguments": {}}]}
        tool = {"name": name, "description": "", "parameters": {"type": "object"}}
        return Task.of("t", [{"messages": [{"role": "user", "content": "Go on."}, call], "tools": [tool]}]).rows

    assert Fingerprint.of(with_tool("walk")).leaks(with_tool("walk"))
    assert not Fingerprint.of(with_tool("walk")).leaks(with_tool("drive"))


def test_every_pair_of_lines_is_named() -> None:
    refuse([], "test.jsonl", "train.jsonl")
    with pytest.raises(DataError) as caught:
        refuse([Leak(3, 7, exact=True), Leak(5, 9, exact=False)], "test.jsonl", "train.jsonl")
    assert caught.value.problems == (
        (3, "repeats line 7 of train.jsonl"),
        (5, "nearly repeats line 9 of train.jsonl"),
    )
    assert "these 2 rows" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"no zip", Fingerprint.of(rows(("a", "b"))).to_bytes()[:-40]])
def test_a_damaged_fingerprint_is_refused(content: bytes) -> None:
    with pytest.raises(SpecialistError, match="damaged"):
        Fingerprint.from_bytes(content, "trained.safetensors")
