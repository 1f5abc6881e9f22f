"""Patterns as what they are: pure functions from what was said to what is next. No model, no loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plural.agents.schema import longest, violations
from plural.errors import PlanError, SettingsError
from plural.teams.patterns import (
    Decide,
    Edge,
    Finish,
    Next,
    Pattern,
    Speak,
    State,
    Turn,
    debate,
    graph,
    handoff,
    ledger,
    map_items,
    round_robin,
    selector,
    vote,
)
from plural.types import Decision, Option

Says = Callable[[str, State], str | Turn]


def echo(name: str, state: State) -> str:
    return f"{name} after {len(state.turns)}"


def choice(value: Any, *others: tuple[Any, float], probability: float = 1.0) -> Decision[Any]:
    return Decision(value, probability, (Option(value, probability), *(Option(*other) for other in others)))


def play(
    pattern: Pattern,
    says: Says = echo,
    choose: Callable[[Decide], Decision[Any]] = lambda wanted: choice((wanted.options or ("",))[0]),
    most: int = 60,
) -> tuple[State, Finish | None, list[list[str]]]:
    """What the loop does, without a model: the state at the end, how it ended, and who worked at once."""
    state, at_once = State("The task.", {name: f"is {name}" for name in pattern.uses}), []
    for _ in range(most):
        next_: Next = pattern.next(state)
        assert pattern.next(state) == next_  # pure
        match next_:
            case Finish():
                return state, next_, at_once
            case Speak(who):
                at_once.append([each.agent for each in who])
                made = [says(each.agent, state) for each in who]
                turns = [
                    said
                    if isinstance(said, Turn)
                    else Turn(at, each.agent, said, each.task or state.transcript(each.reads))
                    for at, (each, said) in enumerate(zip(who, made, strict=True), start=len(state.turns) + 1)
                ]
                state = state.and_turns(turns)
            case decides:
                state = state.and_decided([(each.key, choose(each)) for each in decides])
    return state, None, at_once


def test_round_robin_goes_round_and_ends_with_the_last_word() -> None:
    state, end, _ = play(round_robin(["a", "b", "c"], rounds=2))
    assert [turn.agent for turn in state.turns] == list("abcabc")
    assert end == Finish("c after 5")
    assert state.turns[1].task == "The task.\na: a after 0"
    assert play(round_robin(["a", "b"]))[1] is None  # a condition has to end it


def test_the_selector_chooses_among_those_who_may_speak() -> None:
    asked: list[Decide] = []

    def last(wanted: Decide) -> Decision[str]:
        asked.append(wanted)
        assert wanted.options
        return choice(wanted.options[-1])

    pattern = selector(["a", "b", "c"], allowed={"c": ["a"], "a": ["b", "c"]}, may_end=True)
    state, end, _ = play(pattern, choose=last, most=3)
    assert asked[0].options == ("a", "b", "c")  # nobody has spoken, so that nobody cannot be meant
    assert asked[1].options == ("a", "nobody")
    assert asked[0].speaker
    assert "b: is b" in asked[0].question
    assert [turn.agent for turn in state.turns] == ["c"]
    assert end is None
    assert play(pattern, choose=last)[1] == Finish("c after 0")
    alone = selector(["a", "b"])  # nobody speaks twice in a row: after the first, nothing is left to choose
    state, _, _ = play(alone, most=5)
    assert [turn.agent for turn in state.turns] == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: selector(["a"]), "at least 2"),
        (lambda: selector(["a", "b"], allowed={"a": ["z"]}), "'z', who is no member"),
        (lambda: selector(["a", "b"], allowed={"a": ["a"]}), "Nobody may speak after 'a'"),
        (lambda: round_robin(["a", "a"]), "names 'a' twice"),
        (lambda: round_robin([]), "at least 1"),
        (lambda: handoff(["a"], start="z"), "start is 'z'"),
        (lambda: map_items("a", []), "no items"),
        (lambda: vote(["a", "b"], weights={"z": 1}), "'z', who is no member"),
        (lambda: graph([]), "no edges"),
        (lambda: graph([("a", "b"), ("b", "a")]), "a and b are in a cycle without a limit"),
        (lambda: graph([("a", "b"), Edge("b", "a", limit=0)]), "limit 0"),
        (lambda: graph([("a", "b")], joins={"z": "any"}), "joins says 'z'"),
    ],
)
def test_what_cannot_be_carried_out_is_said_at_once(make: Callable[[], Pattern], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: round_robin(["a"], rounds=0),
        lambda: debate(["a", "b"], rounds=0),
        lambda: ledger(["a"], max_plans=0),
        lambda: ledger(["a"], letters=0),
        lambda: vote(["a", "b"], weights={"a": 0}),
    ],
)
def test_numbers_that_allow_nothing_are_refused(make: Callable[[], Pattern]) -> None:
    with pytest.raises(SettingsError):
        make()


def test_the_conversation_is_handed_over_until_somebody_answers() -> None:
    def says(name: str, state: State) -> str | Turn:
        to = {"a": "b", "b": "c"}.get(name, "")
        return Turn(len(state.turns) + 1, name, f"{name} says", handed_to=to)

    state, end, _ = play(handoff(["a", "b", "c"]), says)
    assert [turn.agent for turn in state.turns] == ["a", "b", "c"]
    assert end == Finish("c says")
    with pytest.raises(PlanError, match="hands over to 'z'"):
        play(handoff(["a", "b"]), lambda name, _: Turn(1, name, "", handed_to="z"))


def test_map_works_on_all_items_at_once_and_joins_them() -> None:
    state, end, at_once = play(map_items("a", ["x", "y", "z"], then="b"))
    assert at_once == [["a", "a", "a"], ["b"]]
    assert [turn.task for turn in state.turns[:3]] == ["x", "y", "z"]
    assert end == Finish("b after 3")
    assert play(map_items("a", ["x", "y"]), lambda name, _: "same")[1] == Finish("same\nsame")


def test_a_vote_is_weighed() -> None:
    answers = {"a": "Yes.", "b": "no", "c": " NO "}
    assert play(vote(list("abc")), lambda name, _: answers[name])[1] == Finish("no")
    assert play(vote(list("abc"), weights={"a": 3}), lambda name, _: answers[name])[1] == Finish("Yes.")
    lost = lambda name, _: Turn(1, name, "Not done.", failed=name != "a")  # noqa: E731
    assert play(vote(list("abc")), lost)[1] == Finish("Not done.")


def test_a_vote_among_options_adds_up_probabilities() -> None:
    sure = {
        "vote of a": choice("yes", ("no", 0.1), probability=0.9),
        "vote of b": choice("no", ("yes", 0.4), probability=0.6),
        "vote of c": choice("no", ("yes", 0.45), probability=0.55),
    }
    pattern = vote(list("abc"), options=["yes", "no"])
    assert pattern.deciders == ("a", "b", "c")
    state, end, _ = play(pattern, choose=lambda wanted: sure[wanted.key])
    assert end == Finish("yes")  # 1.75 against 1.25, though two of three would say no
    assert state.turns == ()


def test_a_vote_among_options_is_at_each_members_temperature() -> None:
    pattern = vote(list("ab"), options=["yes", "no"], temperatures={"b": 2.5})
    wanted = pattern.next(State("The task.", {"a": "", "b": ""}))
    assert isinstance(wanted, tuple)
    assert [each.temperature for each in wanted] == [1.0, 2.5]
    with pytest.raises(PlanError, match="temperatures names 'z'"):
        vote(list("ab"), temperatures={"z": 1})
    with pytest.raises(SettingsError, match="The temperature of 'a' is 0"):
        vote(list("ab"), temperatures={"a": 0})


def test_written_votes_are_as_much_as_they_are_probable() -> None:
    def vote_of(sure: Mapping[str, float | None], **options: Any) -> str:
        def says(name: str, state: State) -> Turn:
            return Turn(1, name, "yes" if name == "a" else "no", probability=sure[name])

        _, end, _ = play(vote(list("abc"), **options), says)
        assert end is not None
        return end.answer

    assert vote_of({"a": 0.9, "b": 0.4, "c": 0.4}) == "yes"
    assert vote_of({"a": 0.9, "b": 0.4, "c": 0.4}, weights={"a": 0.8}) == "no"
    assert vote_of({"a": 0.9, "b": 0.4, "c": 0.4}, temperatures={"a": 0.1}) == "no"  # 0.9 ** 10: it is too sure
    assert vote_of({"a": 0.9, "b": 0.4, "c": None}) == "no"  # one does not tell: heads are counted


def test_a_debate_reads_the_rounds_before() -> None:
    state, end, at_once = play(debate(["a", "b"], rounds=2, judge="c"))
    assert at_once == [["a", "b"], ["a", "b"], ["c"]]
    assert state.turns[1].task == "The task."
    assert state.turns[2].task == "The task.\na: a after 0\nb: b after 0"
    assert end == Finish("c after 4")


def test_the_ledger_plans_anew_when_it_stalls_and_gives_up_in_the_end() -> None:
    def look(wanted: Decide, satisfied: bool = False) -> Decision[Any]:
        if wanted.key != "progress":
            return choice({"text": wanted.key})
        return choice(
            {"satisfied": satisfied, "in_loop": True, "progressing": False, "next": "a", "instruction": "Go."}
        )

    state, end, _ = play(ledger(["a", "b"], max_stalls=2, max_plans=2), choose=look)
    keys = [key for key, _ in state.decided]
    stalled = ["facts", "plan", "progress", "progress", "progress"]
    assert keys == stalled * 2
    assert len(state.turns) == 4  # the third look of each plan led to no turn
    assert end == Finish("a after 3")
    assert state.turns[0].task.endswith("Go.")
    state, end, _ = play(ledger(["a"]), choose=lambda wanted: look(wanted, satisfied=True))
    assert end == Finish("answer")
    assert state.turns == ()


def test_every_text_of_the_ledger_has_an_end() -> None:
    """So that a model that is held to its form always has room for it, and a text of nothing but space is none."""
    wanted: list[Decide] = []

    def look(each: Decide) -> Decision[Any]:
        wanted.append(each)
        looked = {
            "satisfied": len(wanted) > 3,
            "in_loop": False,
            "progressing": True,
            "next": "a",
            "instruction": "Go.",
        }
        return choice(looked if each.key == "progress" else {"text": each.key})

    assert play(ledger(["a"], letters=9), choose=look)[1] == Finish("answer")
    assert {each.key for each in wanted} == {"facts", "plan", "progress", "answer"}
    for each in wanted:
        assert (longest(each.schema) or 0) > 6 * 9
        text = "instruction" if each.key == "progress" else "text"
        fine = {"satisfied": True, "in_loop": True, "progressing": True, "next": "a"} if each.key == "progress" else {}
        assert violations({**fine, text: "Go."}, each.schema or {}) == []
        for bad in (" ", "\x1f", "a" * 10):
            assert violations({**fine, text: bad}, each.schema or {})
        assert violations({**fine, text: "Go.", "more": 1}, each.schema or {})


def by(text: str) -> Callable[[Turn], bool]:
    return lambda turn: turn.text == text


def test_a_graph_runs_branches_at_once_and_joins_them() -> None:
    state, end, at_once = play(graph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]))
    assert at_once == [["a"], ["b", "c"], ["d"]]
    assert state.turns[3].task == "The task.\nb: b after 1\nc: c after 1"
    assert end == Finish("d after 3")


def test_a_branch_that_is_not_taken_does_not_hold_up_the_join() -> None:
    edges = [Edge("a", "b", by("left")), Edge("a", "c", by("right")), ("b", "d"), ("c", "d"), ("c", "e"), ("e", "d")]
    _, _, at_once = play(graph(edges), lambda name, _: "left" if name == "a" else name)
    assert at_once == [["a"], ["b"], ["d"]]
    _, end, at_once = play(graph(edges), lambda name, _: "neither" if name == "a" else name)
    assert (at_once, end) == ([["a"]], Finish("neither"))


def test_a_join_of_any_does_not_wait() -> None:
    edges = [("a", "b"), ("a", "c"), ("c", "e"), ("b", "d"), ("e", "d")]
    _, _, at_once = play(graph(edges, joins={"d": "any"}))
    assert at_once == [["a"], ["b", "c"], ["e", "d"]] or at_once == [["a"], ["b", "c"], ["d", "e"]]


def test_a_loop_is_gone_through_as_often_as_it_may() -> None:
    edges = [("w", "r"), Edge("r", "w", by("again"), limit=2), Edge("r", "p", by("good"))]
    verdicts = iter(["again", "good"])
    state, end, at_once = play(graph(edges), lambda name, _: next(verdicts) if name == "r" else name)
    assert at_once == [["w"], ["r"], ["w"], ["r"], ["p"]]
    assert state.turns[2].task == "The task.\nw: w\nr: again"
    assert end == Finish("p")
    _, end, at_once = play(graph(edges), lambda name, _: "again" if name == "r" else name)
    assert at_once == [["w"], ["r"]] * 3
    assert end == Finish("again")


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=14),
    st.sets(st.integers(0, 7)),
    st.sampled_from(["all", "any"]),
)
def test_any_graph_ends_and_nobody_begins_before_those_it_waits_for(
    pairs: list[tuple[int, int]], silent: set[int], join: Any
) -> None:
    """Acyclic edges between eight members, some of whom let no branch go on."""
    forward = sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})
    if not forward:
        return
    edges = [Edge(str(a), str(b), by("go")) for a, b in forward]
    nodes = {name for edge in edges for name in (edge.source, edge.target)}
    pattern = graph(edges, joins={name: join for name in nodes})
    state, end, _ = play(pattern, lambda name, _: "stop" if int(name) in silent else "go")
    assert end is not None
    order = [turn.agent for turn in state.turns]
    assert len(order) == len(set(order))
    went_on = {name for name in order if int(name) not in silent}
    for name in nodes:
        before = {edge.source for edge in edges if edge.target == name}
        assert (name in order) == (not before or bool(before & went_on))
        if name in order and join == "all":
            assert all(order.index(source) < order.index(name) for source in before if source in order)


def test_a_pattern_of_ones_own_is_a_function() -> None:
    def next_(state: State) -> Next:
        members: Mapping[str, str] = state.members
        return Finish(f"{len(members)}") if state.turns else Speak(())

    assert Pattern("mine", next_, ("a",)).next(State("t", {"a": ""}).and_turns([Turn(1, "a", "x")])) == Finish("1")
