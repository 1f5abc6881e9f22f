"""Several adapters on one request: their contributions are added up, each times its weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plural.errors import PlanError, SettingsError
from plural.teams.patterns.state import Assignment, Decide, Finish, Next, Pattern, Speak, State, distinct

_KEY = "mixture"


def mixture(
    names: Sequence[str], *, weights: Mapping[str, float] | None = None, most: int = 2, least: float = 0.1
) -> Pattern:
    """One answer, by a mixture of members: the team's `blend` makes it, as `Network.agent` makes "cron:0.7+home:0.3".

    Without `weights` the team's model says how probable each member is for the task, and those are the weights. Of a
    network's router, `Routing` is such a model.

    Args:
        weights: how much each of `names` acts; they need not sum to 1.
        most: how many members a mixture has at most, the most probable ones; their weights then sum to 1.
        least: one less probable than this has no part in it, unless it is the most probable.

    Raises:
        PlanError: unknown names in `weights`, or fewer than two members.
        SettingsError: a weight that is not positive, or a limit out of its range.
    """
    names = distinct(names, "mixture", least=2)
    if most < 1 or not 0 <= least < 1:
        raise SettingsError(f"most is {most} and least is {least}; they must be at least 1 and in [0, 1).")
    for name, weight in (weights or {}).items():
        if name not in names:
            raise PlanError(f"weights names {name!r}, who is no member.", hint=f"Members: {', '.join(names)}.")
        if not weight > 0:
            raise SettingsError(f"The weight of {name!r} is {weight}; it must be positive.")

    def next_(state: State) -> Next:
        if state.turns:
            return Finish(state.turns[-1].text)
        if weights is not None:
            return _answered(weights)
        decided = state.decisions(_KEY)
        if not decided:
            return (Decide(_KEY, state.task, names),)
        ranked = decided[0].options
        chosen = [ranked[0], *(one for one in ranked[1:most] if one.probability >= least)]
        total = sum(one.probability for one in chosen)
        return _answered({one.value: one.probability / total for one in chosen})

    return Pattern("mixture", next_, names, decides=weights is None, blends=True)


def _answered(weights: Mapping[str, float]) -> Speak:
    """By one member as it is, by several as the mixture of that name."""
    if len(weights) == 1:
        return Speak((Assignment(next(iter(weights))),))
    return Speak((Assignment("+".join(f"{name}:{weight:.3g}" for name, weight in weights.items())),))
