"""An orchestrator that keeps a ledger: facts and a plan, then progress after every turn; when it stalls, a new plan.

After Magentic-One (arXiv 2411.04468), whose orchestrator parses JSON out of prose; here each entry is a decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plural.errors import SettingsError
from plural.teams.patterns.state import Assignment, Decide, Finish, Next, Pattern, Speak, State, distinct


def ledger(names: Sequence[str], *, max_stalls: int = 2, max_plans: int = 3, letters: int = 800) -> Pattern:
    """The team's model writes facts and a plan, and decides before every turn whether the task is done, whether the
    team goes in circles or gets on, who works next, and on what.

    Args:
        max_stalls: turns without progress before facts and plan are written anew; a turn with progress takes one back.
        max_plans: after so many plans the team stops with what it has.
        letters: the length of a text that the model writes (facts, a plan, an instruction, the answer) at most.
    """
    names = distinct(names, "ledger")
    for what, value in (("max_stalls", max_stalls), ("max_plans", max_plans), ("letters", letters)):
        if value < 1:
            raise SettingsError(f"{what} is {value}; it must be at least 1.")

    def written(key: str, state: State, wish: str) -> Next:
        return (Decide(key, f"{_head(state)}\n\n{wish}", schema=_object(text=_text(letters))),)

    def next_(state: State) -> Next:
        facts, plans, answers = (state.decisions(key) for key in ("facts", "plan", "answer"))
        progress = [decision.value for decision in state.decisions("progress")]
        needed = 1 + _times_stalled(progress, max_stalls)
        if answers:
            return Finish(answers[0].value["text"])
        if needed > max_plans:
            return Finish(state.turns[-1].text)
        if len(facts) < needed:
            return written("facts", state, "List what is known about the task, and what has to be found out.")
        if len(plans) < needed:
            return written("plan", state, f"What is known:\n{facts[-1].value['text']}\n\nWrite a short plan.")
        if len(progress) == len(state.turns) + needed - 1:  # each time that it stalled, a look led to no turn
            question = f"{_head(state)}\n\nPlan:\n{plans[-1].value['text']}\n\nHow does it stand?"
            return (Decide("progress", question, schema=_progress(names, letters)),)
        if progress[-1]["satisfied"]:
            return written("answer", state, "The task is done. Write the answer.")
        instruction = f"{state.transcript()}\n\n{progress[-1]['instruction']}"
        return Speak((Assignment(progress[-1]["next"], instruction),))

    return Pattern("ledger", next_, names, decides=True, tells=tuple((name, name, True) for name in names))


def _times_stalled(progress: Sequence[Any], max_stalls: int) -> int:
    times = stalled = 0
    for look in progress:
        stalled = stalled + 1 if look["in_loop"] or not look["progressing"] else max(0, stalled - 1)
        if look["satisfied"]:
            stalled = 0
        if stalled > max_stalls:
            times, stalled = times + 1, 0
    return times


def _head(state: State) -> str:
    team = "\n".join(f"{name}: {purpose}" for name, purpose in state.members.items())
    return f"The team:\n{team}\n\n{state.transcript()}"


def _progress(names: Sequence[str], letters: int) -> dict[str, Any]:
    return _object(
        satisfied={"type": "boolean", "description": "The task is done."},
        in_loop={"type": "boolean", "description": "The team repeats itself."},
        progressing={"type": "boolean", "description": "The last turn brought the team on."},
        next={"type": "string", "enum": list(names), "description": "Who works next."},
        instruction={**_text(letters), "description": "What the next one is to do."},
    )


def _text(letters: int) -> dict[str, Any]:
    """Not blank, and with an end: a model that is held to it always has room for it."""
    return {"type": "string", "pattern": r"[^\s\x00-\x1f]", "maxLength": letters}


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
