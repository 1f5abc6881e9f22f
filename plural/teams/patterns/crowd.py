"""Many at once: over items, by vote, in a debate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from plural.errors import PlanError, SettingsError
from plural.teams.patterns.state import Assignment, Decide, Finish, Next, Pattern, Speak, State, Turn, distinct, say


def map_items(agent: str, items: Sequence[str], *, then: str | None = None) -> Pattern:
    """`agent` works on every item, all at once; `then` reads the task and all results and answers. Without it the
    answer is the results, a line each.

    Raises:
        PlanError: there are no items.
    """
    if not items:
        raise PlanError("map_items has no items.")

    def next_(state: State) -> Next:
        if not state.turns:
            return Speak(tuple(Assignment(agent, item) for item in items))
        if then is not None and len(state.turns) == len(items):
            return say(then)
        return Finish(state.turns[-1].text if then else "\n".join(turn.text for turn in state.turns))

    return Pattern("map", next_, (agent, then) if then else (agent,), tells=((agent, then, False),) if then else ())


def vote(
    names: Sequence[str],
    *,
    options: Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    temperatures: Mapping[str, float] | None = None,
) -> Pattern:
    """Everybody answers at once, knowing nothing of the others; the answer with the most weight wins.

    With `options` each member decides among them, and its probabilities are its votes. Without, each writes an answer,
    and answers count as one that differ in case, spaces and a full stop only; a vote is then as much as its text is
    probable, if the models of all who answered tell how probable theirs are.

    Args:
        weights: how much a member's vote counts, as its score on held-out rows; 1 if it is not named.
        temperatures: what a member's log-probabilities are divided by; 1 if it is not named. Fitted by
            `plural.evals.calibration` on decisions whose right answers are known, it makes them mean what they say.

    Raises:
        PlanError, SettingsError: unknown names, or a weight or a temperature that is not positive.
    """
    names = distinct(names, "vote", least=2)
    weight, temperature = _weights(names, weights), _weights(names, temperatures, "temperature")

    def next_(state: State) -> Next:
        if options is not None:
            votes = {name: state.decisions(_vote_of(name)) for name in names}
            if not all(votes.values()):
                question = f"{state.task}\nAnswer with one of: {', '.join(options)}."
                return tuple(
                    Decide(_vote_of(name), question, tuple(options), by=name, temperature=temperature[name])
                    for name in names
                )
            shares = {
                option.value: sum(
                    weight[name] * each.probability
                    for name in names
                    for each in votes[name][0].options
                    if each.value == option.value
                )
                for option in votes[names[0]][0].options
            }
            return Finish(max(options, key=lambda option: shares[option]))
        if not state.turns:
            return Speak(tuple(Assignment(name, reads=()) for name in names))
        return Finish(most_said(state.turns, weight, temperature))

    return Pattern("vote", next_, names, deciders=names if options is not None else ())


def debate(
    names: Sequence[str], *, rounds: int = 2, judge: str | None = None, weights: Mapping[str, float] | None = None
) -> Pattern:
    """Everybody answers at once, then reads all answers and answers again, for `rounds` rounds. Then the judge answers,
    or the last round is a vote.

    Raises:
        PlanError, SettingsError: as for `vote`, or fewer than one round.
    """
    names = distinct(names, "debate", least=2)
    weight = _weights(names, weights)
    if rounds < 1:
        raise SettingsError(f"rounds is {rounds}; it must be at least 1.")

    def next_(state: State) -> Next:
        spoken, last = len(state.turns), rounds * len(names)
        if spoken < last:
            return Speak(tuple(Assignment(name, reads=tuple(range(spoken))) for name in names))
        if judge is not None and spoken == last:
            return say(judge)
        return Finish(state.turns[-1].text if judge else most_said(state.turns[-len(names) :], weight))

    judged = tuple((name, judge, False) for name in names) if judge else ()
    return Pattern("debate", next_, (*names, judge) if judge else names, tells=judged)


def most_said(
    turns: Sequence[Turn], weight: Mapping[str, float], temperature: Mapping[str, float] | None = None
) -> str:
    """The answer with the most weight, as who said it first wrote it; failed turns do not count unless all failed. With
    temperatures, and where the probability of every text is known, that is a factor of its weight."""
    said = [turn for turn in turns if not turn.failed] or list(turns)
    shares: defaultdict[str, float] = defaultdict(float)
    first: dict[str, str] = {}
    known = temperature is not None and all(turn.probability is not None for turn in said)
    for turn in said:
        mark = " ".join(turn.text.casefold().split()).removesuffix(".")
        sure = (turn.probability or 0.0) ** (1 / (temperature or {})[turn.agent]) if known else 1.0
        shares[mark] += weight[turn.agent] * sure
        first.setdefault(mark, turn.text)
    return first[max(shares, key=lambda mark: shares[mark])]


def _vote_of(name: str) -> str:
    return f"vote of {name}"


def _weights(names: Sequence[str], weights: Mapping[str, float] | None, what: str = "weight") -> dict[str, float]:
    for name, weight in (weights or {}).items():
        if name not in names:
            raise PlanError(f"{what}s names {name!r}, who is no member.", hint=f"Members: {', '.join(names)}.")
        if not weight > 0:
            raise SettingsError(f"The {what} of {name!r} is {weight}; it must be positive.")
    return {name: (weights or {}).get(name, 1.0) for name in names}
