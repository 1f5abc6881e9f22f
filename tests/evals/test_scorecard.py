"""Scoring anything that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plural.errors import ContractError, EngineStopped, SettingsError
from plural.evals import Task, interval, score
from plural.types import Message, ToolSpec

TASK = Task.of("squares", [{"prompt": str(number), "answer": str(number * number)} for number in range(40)])


class Squares:
    """Right up to `known`; says how many were asked at once."""

    def __init__(self, known: int) -> None:
        self.known = known
        self.running = self.most = 0

    async def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        number = int(messages[-1].content)
        return str(number * number) if number < self.known else "?"


async def test_the_value_is_the_share_of_right_answers_and_results_keep_the_rows_order() -> None:
    seen: list[tuple[int, int]] = []
    card = await score(TASK, Squares(30), progress=lambda done, of: seen.append((done, of)))
    assert (card.value, card.n) == (0.75, 40)
    assert card.low < 0.75 < card.high
    assert [result.row for result in card.results] == list(TASK.rows)
    assert [miss.row.expected for miss in card.misses] == [str(number * number) for number in range(30, 40)]
    assert seen == [(number, 40) for number in range(1, 41)]
    kept = card.as_score("test")
    assert (kept.metric, kept.value, kept.n, kept.by) == ("exact", 0.75, 40, "test")


async def test_two_cards_are_compared_row_by_row() -> None:
    better, worse = await score(TASK, Squares(30)), await score(TASK, Squares(20))
    gain = better.minus(worse, "30 - 20", on="squares")
    assert (gain.what, gain.value, gain.n, gain.on) == ("30 - 20", 0.25, 40, "squares")
    # Only ten rows differ: the difference is surer than that of two scores that know nothing of each other.
    assert 0 < gain.low < 0.25 < gain.high < better.high - worse.low
    assert better.minus(better, "nothing").low == better.minus(better, "nothing").high == 0
    other = await score(Task("fewer", TASK.rows[:-1]), Squares(30))
    with pytest.raises(SettingsError, match="different rows"):
        better.minus(other, "other rows")


async def test_a_card_says_what_an_answer_costs() -> None:
    kept = (await score(TASK, Squares(30))).as_score("test", on="rows.jsonl", tokens=100)
    assert (kept.tokens, kept.on) == (2.5, "rows.jsonl")
    assert kept.low is not None
    assert kept.high is not None
    assert kept.low < kept.value < kept.high


async def test_no_more_than_the_allowed_number_is_asked_at_once() -> None:
    answerer = Squares(40)
    await score(TASK, answerer, concurrency=3)
    assert answerer.most == 3
    with pytest.raises(SettingsError, match="concurrency is 0"):
        await score(TASK, answerer, concurrency=0)


async def test_a_broken_contract_scores_nothing_and_says_why() -> None:
    class Breaks:
        async def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
            raise ContractError("not JSON")

    card = await score(TASK, Breaks())
    assert card.value == 0.0
    assert {result.failure for result in card.results} == {"not JSON"}


async def test_any_other_error_ends_the_scoring_as_it_is() -> None:
    class Stops:
        async def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
            raise EngineStopped("closed")

    with pytest.raises(EngineStopped, match="closed"):
        await score(TASK, Stops())


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_an_interval_holds_its_mean_and_is_the_same_again(values: list[float]) -> None:
    mean, low, high = interval(values)
    assert low - 1e-9 <= mean <= high + 1e-9
    assert interval(values) == (mean, low, high)


def test_more_rows_make_a_narrower_interval() -> None:
    _, low, high = interval([0.0, 1.0] * 10)
    _, narrow_low, narrow_high = interval([0.0, 1.0] * 200)
    assert narrow_high - narrow_low < high - low
    with pytest.raises(SettingsError, match="no rows"):
        interval([])
