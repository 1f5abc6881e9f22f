"""What planner and observers may say: JSON Schemas, whose names and numbers are only those that there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plural.teams.drafting.drafts import GENERAL, Sizes

Form = dict[str, Any]
_NAME = {"type": "string", "pattern": "^[a-z][a-z0-9]{0,11}(_[a-z0-9]{1,11})?$", "maxLength": 24}


def team_form(sizes: Sizes, specialists: Sequence[str], tools: Sequence[str], *, may_lack: bool) -> Form:
    """The agents; or, if it may be said, the skill that nobody has."""
    agent = _object(
        name=_NAME,
        description=_text(sizes, "What it is for: what the others read of it."),
        prompt=_text(sizes, "Its expertise, what it is after, what it keeps to."),
        tools=_some(tools, "The tools that it needs, and no others."),
        suggestions=_text(sizes, "How it should work: steps, what to use of what was done, the form of its answer."),
        specialist={"type": "string", "enum": [*specialists, GENERAL], "description": "Who suits it best."},
    )
    team = _object(agents={"type": "array", "items": agent, "minItems": 1, "maxItems": sizes.agents})
    if not may_lack:
        return team
    lacking = _object(
        missing=_text(sizes, "The skill that is needed and that nobody has, in a few words."),
        why=_text(sizes, "Why none of the specialists will do."),
    )
    return {"anyOf": [team, lacking]}


def plan_form(
    sizes: Sizes, agents: Sequence[str], done: Sequence[int] = (), *, first: int = 1, exact: bool = True
) -> Form:
    """Steps, numbered from `first` on; they may build on those that are `done`. With `exact` each place of the list
    says itself which steps it can build on; providers that know no `prefixItems` are checked by `plan_faults`."""
    later = range(first, first + sizes.steps)
    if not exact:
        known = sorted({*done, *later})
        return _object(steps=_steps({"items": _step(sizes, agents, known)}, sizes))
    each = [_step(sizes, agents, [*done, *range(first, number)]) for number in later]
    return _object(steps=_steps({"prefixItems": each, "items": False}, sizes))


def plan_faults(plan: Mapping[str, Any], done: Sequence[int] = (), *, first: int = 1) -> Iterator[str]:
    """What the form of a plan that is not `exact` does not say."""
    for number, step in enumerate(plan["steps"], start=first):
        for earlier in step["inputs"]:
            if earlier not in done and not first <= earlier < number:
                yield f"Step {number} builds on step {earlier}, which does not come before it."


def verdict_form(sizes: Sizes) -> Form:
    return _object(
        reason=_text(sizes, "What you found, point by point."),
        good={"type": "boolean", "description": "Nothing has to be changed."},
        suggestions=_text(sizes, "What has to be changed, if anything."),
    )


def memory_form(sizes: Sizes) -> Form:
    return _object(needed=_text(sizes, "What this step needs to know of it."))


def look_form(sizes: Sizes) -> Form:
    """An agent's look at its own work."""
    return _object(
        thought=_text(sizes, "How good is it, and why?"),
        done={"type": "boolean", "description": "It is what was expected."},
        better=_text(sizes, "What to do better, if it is not."),
    )


def talk_form(sizes: Sizes) -> Form:
    """Whether those who talk agree."""
    return _object(
        reason=_text(sizes, "Where they stand."),
        agreed={"type": "boolean", "description": "They agree on a result that is what was expected."},
        result=_text(sizes, "The result as it stands, whole."),
    )


def check_form(sizes: Sizes, on: Sequence[str]) -> Form:
    """The action observer's word on a result; `on` is what may follow."""
    return _object(
        reason=_text(sizes, "What you found."),
        good={"type": "boolean", "description": "The result is what was expected."},
        next={"type": "string", "enum": list(on), "description": "What is to be done now."},
        feedback=_text(sizes, "What the next ones have to know, or do better."),
    )


def _step(sizes: Sizes, agents: Sequence[str], earlier: Sequence[int]) -> Form:
    inputs: Form = {"type": "array", "maxItems": min(len(earlier), 4)}
    if earlier:
        inputs |= {"items": {"enum": list(earlier)}}
    return _object(
        task=_text(sizes, "What is to be done."),
        agents=_some(agents, "Who does it: one alone, or several together.", least=1),
        inputs={**inputs, "description": "The numbers of the steps whose results it needs."},
        expects=_text(sizes, "What its result has to be."),
    )


def _steps(items: Form, sizes: Sizes) -> Form:
    return {"type": "array", **items, "minItems": 1, "maxItems": sizes.steps}


def _some(names: Sequence[str], what: str, *, least: int = 0) -> Form:
    form: Form = {"type": "array", "minItems": least, "maxItems": len(names), "description": what}
    return {**form, "items": {"type": "string", "enum": list(names)}} if names else form


def _text(sizes: Sizes, what: str) -> Form:
    """Not blank: a task of nothing but space is none, whoever says what space is."""
    return {"type": "string", "pattern": r"[^\s\x00-\x1f]", "maxLength": sizes.letters, "description": what}


def _object(**properties: Form) -> Form:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
