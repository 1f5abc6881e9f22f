"""A draft that is carried out: a pattern, as any other, so that a journal can stop it, go on with it and play it back.

Each step is a generator that says what it needs next, a decision or a turn, and is sent what came of it. Steps that
need nothing from each other get on at once.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from plural.agents.approval import Deny
from plural.agents.asking import verdict
from plural.agents.schema import violations
from plural.teams.drafting import prompts
from plural.teams.drafting.drafts import GENERAL, Draft, DraftedStep
from plural.teams.drafting.forms import (
    check_form,
    look_form,
    memory_form,
    plan_faults,
    plan_form,
    talk_form,
)
from plural.teams.insisting import TRIES
from plural.teams.patterns.state import Assignment, Decide, Finish, Next, Pattern, Speak, State, Turn

GO_ON, AGAIN, CHANGE = "go on", "do it again", "change the plan"
_REFERENCE = re.compile(r"#(\d+)")

Need = Decide | Assignment
# What is sent back is a decision's value or a turn.
Solving = Generator[Need, Any, "Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """`replaced`: the plan was changed because of it, so that it is no part of the answer."""

    text: str
    failed: bool = False
    feedback: str = ""
    replaced: bool = False


def carry_out(draft: Draft, *, exact: bool = True) -> Pattern:
    """Works through the plan, on the draft's task or on another one (`Draft.about`). The team's model is the action
    observer: it writes down what a step needs to know (dynamic memory), looks at what came of it, has it done again or
    changes the plan.

    Args:
        exact: the team's model takes grammars (see `plan_form`).
    """

    def next_(state: State) -> Next:
        work = _Work(draft.about(state.task), state.task, exact)
        decided = {key: decision.value for key, decision in state.decided}
        turns = iter(state.turns)
        if draft.ways.approve:
            word = work.approval(decided)
            if isinstance(word, Decide):
                return (word,)
            if isinstance(word, Deny):
                return Finish(f"A person denied the plan: {word.reason}")
        while needs := work.needs():
            wanted = {number: need for number, need in needs.items() if isinstance(need, Decide)}
            if wanted:
                if any(need.key not in decided for need in wanted.values()):
                    return tuple(wanted.values())
                work.go_on({number: decided[need.key] for number, need in wanted.items()})
                continue
            speaking = {number: need for number, need in needs.items() if isinstance(need, Assignment)}
            said = dict(zip(speaking, turns, strict=False))
            if len(said) < len(speaking):
                return Speak(tuple(speaking.values()))
            work.go_on(said)
        return Finish(work.answer())

    names = tuple(agent.name for agent in draft.agents)
    ways = draft.ways
    talking = any(step.together for step in draft.steps) and ways.refinement
    looking = tuple(agent.name for agent in draft.agents if agent.specialist == GENERAL and ways.refinement)
    return Pattern(
        "draft",
        next_,
        names,
        decides=ways.observers or ways.memory or talking,
        deciders=looking if ways.attempts > 1 else (),
        tells=tuple(_tells(draft)),
    )


def _tells(draft: Draft) -> Iterator[tuple[str, str, bool]]:
    told = set()
    for step in draft.steps:
        for earlier in step.inputs:
            for one in draft.steps[earlier - 1].agents:
                told |= {(one, other, False) for other in step.agents if one != other}
    yield from sorted(told)


@dataclass(slots=True)
class _Work:
    """Where the work on one task stands: `plan` holds every step that is, was, or still may be worked on."""

    draft: Draft
    task: str
    exact: bool
    plan: dict[int, DraftedStep] = field(default_factory=dict)
    results: dict[int, Result] = field(default_factory=dict)
    changes: int = 0
    _under_way: dict[int, tuple[Solving, Need]] = field(default_factory=dict)
    _numbers: int = 0  # given so far

    def __post_init__(self) -> None:
        self.plan = dict(enumerate(self.draft.steps, start=1))
        self._numbers = len(self.plan)

    # --------------------------------------------------------------------------------------------------- the steps
    def needs(self) -> Mapping[int, Need]:
        """What the steps under way need next; those that can begin now have begun. Empty: all is done."""
        while ready := [number for number in self.plan if self._ready(number)]:
            for number in ready:
                lost = [earlier for earlier in self.plan[number].inputs if self.results[earlier].failed]
                if lost:
                    why = f"Not done: it needs the result of step {lost[0]}, which failed."
                    self.results[number] = Result(why, failed=True)
                else:
                    self._move(number, _solve(self, number, self.plan[number]), None)
        return {number: need for number, (_, need) in self._under_way.items()}

    def go_on(self, given: Mapping[int, Any]) -> None:
        for number, value in given.items():
            self._move(number, self._under_way[number][0], value)

    def _move(self, number: int, solving: Solving, value: Any) -> None:
        try:
            self._under_way[number] = solving, solving.send(value)
        except StopIteration as ended:
            self._under_way.pop(number, None)
            self.results[number] = ended.value

    def _ready(self, number: int) -> bool:
        begun = number in self.results or number in self._under_way
        return not begun and all(earlier in self.results for earlier in self.plan[number].inputs)

    # -------------------------------------------------------------------------------------------------- the plan
    @property
    def begun(self) -> list[int]:
        return sorted({*self.results, *self._under_way})

    @property
    def next_number(self) -> int:
        return self._numbers + 1

    def change(self, plan: Mapping[str, Any], first: int) -> None:
        """In the place of what has not begun; the new steps were written as if the first were number `first`."""
        self.plan = {number: step for number, step in self.plan.items() if number in self.begun}
        self._add(plan, first)
        self.changes += 1

    def _add(self, plan: Mapping[str, Any], first: int) -> None:
        shift = self.next_number - first  # another step may have changed the plan meanwhile
        for step in _steps(plan):
            self._numbers += 1
            inputs = tuple(at + shift if at >= first else at for at in step.inputs)
            self.plan[self._numbers] = step.model_copy(update={"inputs": inputs})

    def approval(self, decided: Mapping[str, Any]) -> Decide | Deny | None:
        """What a person has to be asked about the whole plan, or why they deny it; None when it stands as they want
        it."""
        asking, said = _approve(self, "plan", 1, {"steps": [step.model_dump() for step in self.draft.steps]}), None
        try:
            while True:
                need = asking.send(said)
                if need.key not in decided:
                    return need
                said = decided[need.key]
        except StopIteration as ended:
            if isinstance(ended.value, Deny):
                return ended.value
            self.plan, self._numbers = {}, 0
            self._add(ended.value, 1)
            return None

    # ------------------------------------------------------------------------------------------------------ memory
    def log(self) -> str:
        """The long-term memory: every result, with what was said of it."""
        lines = [f"Known from before: {each}" for each in self.draft.known]
        for number, result in self.results.items():
            step = self.plan[number]
            lines.append(f"Step {number} ({', '.join(step.agents)}): {step.task}\nResult: {result.text}")
            if result.feedback:
                lines.append(f"Feedback: {result.feedback}")
        return "\n".join(lines)

    def inputs(self, step: DraftedStep) -> dict[int, str]:
        return {earlier: self.results[earlier].text for earlier in step.inputs}

    def answer(self) -> str:
        """What no other step has used: one result alone, or each on its line after what was asked."""
        used = {earlier for step in self.plan.values() for earlier in step.inputs}
        last = [number for number in self.plan if number not in used and not self.results[number].replaced]
        if len(last) == 1:
            return self.results[last[0]].text
        return "\n".join(f"{self._filled(self.plan[number])}: {self.results[number].text}" for number in last)

    def asked(self, step: DraftedStep, name: str, *, memory: str, before: str, better: str) -> Assignment:
        """A specialist is asked the task alone, which is what it was trained on; anybody else is told all."""
        if self.draft.agent(name).specialist != GENERAL:
            return Assignment(name, self._filled(step))
        told = prompts.work(
            self.task, step, name, inputs=self.inputs(step), memory=memory, before=before, better=better
        )
        return Assignment(name, told)

    def _filled(self, step: DraftedStep) -> str:
        """The task with its inputs in the place of `#k`, and behind it those that it does not mention."""
        inputs = self.inputs(step)
        mentioned = {int(found) for found in _REFERENCE.findall(step.task)}
        text = _REFERENCE.sub(lambda found: inputs.get(int(found[1]), found[0]), step.task)
        return "\n".join([text, *(result for number, result in inputs.items() if number not in mentioned)])


# ---------------------------------------------------------------------------------------------------------- one step
def _solve(work: _Work, number: int, step: DraftedStep) -> Solving:
    """Memory, work, and the action observer's look at it; done again or planned anew as often as that is allowed.

    `said` is the short-term memory: every attempt at this step and what was said of it."""
    ways, feedback = work.draft.ways, ""
    said: list[str] = []
    repeats = ways.repeats if any(work.draft.agent(name).specialist == GENERAL for name in step.agents) else 0
    for time in range(repeats + 1):
        key, memory = f"{number}.{time}", ""
        if ways.memory and (log := work.log()):
            wish = prompts.remember(work.task, step, log)
            memory = (yield Decide(f"memory {key}", wish, schema=memory_form(work.draft.sizes)))["needed"]
        solving = _together if step.together else _alone
        result = yield from solving(work, step, key, memory, said, feedback)
        if not ways.observers:
            return result
        on = [GO_ON] * (not result.failed) + [AGAIN] * (time < repeats) + [CHANGE] * (work.changes < ways.changes)
        wish = prompts.check(work.task, step, result.text, work.plan, on or [GO_ON])
        form = check_form(work.draft.sizes, on or [GO_ON])
        verdict = yield Decide(f"check {key}", wish, schema=form)
        feedback = "" if verdict["good"] else verdict["feedback"]
        said.append(f"What was found: {verdict['reason']}")
        result = Result(result.text, result.failed, feedback)
        if verdict["next"] == CHANGE and work.changes < ways.changes:  # another step may have used the last one
            changed = yield from _change(work, number, step, result)
            result = replace(result, replaced=changed)
        if verdict["next"] != AGAIN:
            return result
    return result


def _alone(work: _Work, step: DraftedStep, key: str, memory: str, said: list[str], feedback: str) -> Solving:
    """Self-refinement: an attempt, a look at it, a better attempt."""
    (name,) = step.agents
    ways = work.draft.ways
    learns = ways.refinement and work.draft.agent(name).specialist == GENERAL
    attempts = ways.attempts if learns else 1
    for attempt in range(1, attempts + 1):
        turn: Turn = yield work.asked(step, name, memory=memory, before="\n".join(said), better=feedback)
        said.append(f"{name}: {turn.text}")
        if turn.failed or attempt == attempts:
            break
        wish = prompts.look(work.task, step, turn.text)
        look = yield Decide(f"look {key}.{attempt}", wish, schema=look_form(work.draft.sizes), by=name)
        if look["done"]:
            break
        feedback = look["better"]
        said.append(f"What was found: {look['thought']}")
    return Result(turn.text, turn.failed)


def _together(work: _Work, step: DraftedStep, key: str, memory: str, said: list[str], feedback: str) -> Solving:
    """Collaborative refinement: they speak in turn, each reads all before, until they agree."""
    refines, result = work.draft.ways.refinement, Result("")
    for talk in range(1, (work.draft.ways.talks if refines else 1) + 1):
        turns: list[Turn] = []
        for name in step.agents:
            turn = yield work.asked(step, name, memory=memory, before="\n".join(said), better=feedback)
            turns.append(turn)
            said.append(f"{name}: {turn.text}")
        failed = all(turn.failed for turn in turns)
        result = Result(turns[-1].text, failed)
        if failed or not refines:
            break
        wish = prompts.agree(work.task, step, "\n".join(said))
        stand = yield Decide(f"talk {key}.{talk}", wish, schema=talk_form(work.draft.sizes))
        result = Result(stand["result"])
        if stand["agreed"]:
            break
    return result


def _change(work: _Work, number: int, step: DraftedStep, result: Result) -> Generator[Need, Any, bool]:
    """A new plan for what has not begun. One that cannot be used is asked for again; at last the old one stands, and
    this is False."""
    done, first = work.begun, work.next_number
    names = [agent.name for agent in work.draft.agents]
    form = plan_form(work.draft.sizes, names, done, first=first, exact=work.exact)
    wish = prompts.change(work.task, step, result.text, result.feedback, work.plan, first)
    for attempt in range(1, TRIES + 1):
        plan = yield Decide(f"plan {number}.{attempt}", wish, schema=form)
        wrong = list(plan_faults(plan, done, first=first))
        if not wrong:
            if work.draft.ways.approve:
                word = yield from _approve(work, f"plan {number}.{attempt}", first, plan)
                if isinstance(word, Deny):
                    return False
                plan = word
            allowed = work.changes < work.draft.ways.changes
            if allowed:
                work.change(plan, first)
            return allowed
        wish = f"{wish}\n\nYour last plan cannot be used. {' '.join(wrong)}"
    return False


def _approve(
    work: _Work, key: str, first: int, plan: Mapping[str, Any]
) -> Generator[Decide, Any, Mapping[str, Any] | Deny]:
    """Asks a person about a plan whose first step is number `first`: what they approve, that or one that they wrote in
    its place, or why they deny it. Of a plan that cannot be used they are told so, and asked again."""
    done, names = work.begun, [agent.name for agent in work.draft.agents]
    form, wrong = plan_form(work.draft.sizes, names, done, first=first, exact=False), ""
    while True:
        wish = prompts.approve(dict(enumerate(_steps(plan), start=first)), wrong)
        said = verdict((yield Decide(f"approval of {key}", wish, person=True)))
        if isinstance(said, Deny):
            return said
        if said.arguments is None:
            return plan
        whole = _filled_up(said.arguments)
        faults = violations(whole, form) or list(plan_faults(whole, done, first=first))
        if not faults:
            return whole
        key, wrong = f"{key}+", "; ".join(faults)


def _filled_up(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """A person need not say what a step builds on or what is expected of it."""
    steps = plan.get("steps")
    if not isinstance(steps, list):
        return plan
    about = [{**each, "expects": each.get("expects") or "-"} if isinstance(each, dict) else each for each in steps]
    return {**plan, "steps": [{"inputs": [], **each} if isinstance(each, dict) else each for each in about]}


def _steps(plan: Mapping[str, Any]) -> Iterator[DraftedStep]:
    for each in plan["steps"]:
        agents, inputs = (tuple(dict.fromkeys(each[key])) for key in ("agents", "inputs"))
        yield DraftedStep(task=each["task"], agents=agents, inputs=inputs, expects=each["expects"])
