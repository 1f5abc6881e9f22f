"""A draft: the team and the plan for one task, as data. After AutoAgents (arXiv 2309.17288)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from plural.agents.budget import Budget
from plural.errors import PlanError

GENERAL = "base"  # who is no specialist: the model that knows a little of everything
TASK = "{task}"  # in a step: where the task of the run stands
Text = Annotated[str, Field(min_length=1)]
# Where something is in a draft: ("steps", 1, "agents").
Place = tuple[str | int, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DraftedAgent(_Strict):
    """The paper's {prompt, description, toolset, suggestions}, and the specialist that suits it.

    `prompt` says who it is, what it is after and what it keeps to; `description` is what the others read of it;
    `suggestions` are on how to work. A specialist reads none of them: it is asked as it was trained, by the task alone.
    `found` says how its specialist was found.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    description: str = ""
    prompt: str = ""
    tools: tuple[str, ...] = ()
    suggestions: str = ""
    specialist: str = GENERAL
    found: str = ""


class DraftedStep(_Strict):
    """`inputs` are the numbers of the steps whose results it builds on; `#2` in the task stands for that of step 2, and
    `{task}` for the task of the run. One agent solves it alone, several solve it together."""

    task: Text
    agents: tuple[str, ...] = Field(min_length=1)
    inputs: tuple[int, ...] = ()
    expects: str = ""

    @property
    def together(self) -> bool:
        return len(self.agents) > 1


class Ways(_Strict):
    """How a draft is made and carried out. The first three are the paper's ablations.

    Args:
        observers: of the team and of the plan, while it is drafted; of every result, while it runs.
        refinement: an agent looks at what it made and makes it better; several talk until they agree. Without it each
            agent of a step speaks once.
        memory: before each step, what it needs of all that was done is written down for it.
        rounds: of planner and observers, at most.
        attempts: of an agent alone at one step, at most.
        talks: rounds of talk at one step, at most.
        repeats: how often a step is done again because its result was not good.
        changes: how often the plan is changed while it runs.
        approve: a person is asked about the plan before it is carried out, and about every change of it.
    """

    observers: bool = True
    refinement: bool = True
    memory: bool = True
    rounds: int = Field(default=3, ge=1)
    attempts: int = Field(default=5, ge=1)
    talks: int = Field(default=5, ge=1)
    repeats: int = Field(default=1, ge=0)
    changes: int = Field(default=2, ge=0)
    approve: bool = False


class Sizes(_Strict):
    """How much may be drafted. `letters` is the length of a text that is written at most."""

    agents: int = Field(default=4, ge=1)
    steps: int = Field(default=6, ge=1)
    letters: int = Field(default=400, ge=1)


class Allowance(_Strict):
    """A budget, in a file."""

    steps: int | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, gt=0)
    money: float | None = Field(default=None, gt=0)

    @property
    def budget(self) -> Budget:
        return Budget(self.steps, self.tokens, self.seconds, self.money)


@dataclass(frozen=True, slots=True)
class Fault:
    place: Place
    what: str

    def __str__(self) -> str:
        return f"{where(self.place)}: {self.what}"


class Draft(_Strict):
    """`known` is what was remembered for the task from before; `unsettled` what the observers still wanted when the
    rounds were used up."""

    task: Text
    agents: tuple[DraftedAgent, ...] = Field(min_length=1)
    steps: tuple[DraftedStep, ...] = Field(min_length=1)
    ways: Ways = Ways()
    sizes: Sizes = Sizes()
    budget: Allowance = Allowance()
    known: tuple[str, ...] = ()
    unsettled: tuple[str, ...] = ()

    def agent(self, name: str) -> DraftedAgent:
        return next(agent for agent in self.agents if agent.name == name)

    def about(self, task: str) -> Draft:
        """The same team and plan for `task`, which stands in the place of `{task}` in its steps. The base and chat
        models read it beside their step anyway.

        Raises:
            PlanError: it is another task, no step has a place for it, and a specialist would answer its step as ever.
        """
        places = [step for step in self.steps if TASK in step.task]
        if task != self.task and not places:
            fixed = [name for step in self.steps for name in step.agents if self.agent(name).specialist != GENERAL]
            fixed += ["a step" for step in self.steps if step.task.strip() == self.task.strip()]
            if fixed:
                raise PlanError(
                    f"The team's steps are those of its own task, {self.task!r}: {fixed[0]} would work on that and "
                    f"hear nothing of {task!r}.",
                    hint=f"Write {TASK} into a step where the new task is to stand, or draft a team for it.",
                )
        steps = tuple(step.model_copy(update={"task": step.task.replace(TASK, task)}) for step in self.steps)
        return self.model_copy(update={"task": task, "steps": steps})

    def faults(self, specialists: Collection[str], tools: Collection[str]) -> Iterator[Fault]:
        """Why it cannot be carried out by these specialists with these tools; nothing if it can."""
        names = [agent.name for agent in self.agents]
        for at, agent in enumerate(self.agents):
            if agent.name in names[:at]:
                yield Fault(("agents", at, "name"), f"two agents are called {agent.name!r}")
            if agent.specialist not in (GENERAL, *specialists):
                known = ", ".join((GENERAL, *specialists))
                yield Fault(("agents", at, "specialist"), f"there is no specialist {agent.specialist!r} ({known})")
            for index, tool in enumerate(agent.tools):
                if tool not in tools:
                    known = ", ".join(tools) or "none"
                    yield Fault(("agents", at, "tools", index), f"nobody has a tool {tool!r} ({known})")
        for number, step in enumerate(self.steps, start=1):
            for index, name in enumerate(step.agents):
                if name not in names:
                    place = ("steps", number - 1, "agents", index)
                    yield Fault(place, f"there is no agent {name!r} ({', '.join(names)})")
            for index, earlier in enumerate(step.inputs):
                if not 1 <= earlier <= len(self.steps):
                    yield Fault(("steps", number - 1, "inputs", index), f"there is no step {earlier}")
        yield from self._cycles()

    def _cycles(self) -> Iterator[Fault]:
        left = dict(enumerate(self.steps, start=1))
        while free := [number for number, step in left.items() if not left.keys() & set(step.inputs)]:
            for number in free:
                del left[number]
        for number, step in left.items():
            if number in step.inputs:
                yield Fault(("steps", number - 1, "inputs"), f"step {number} builds on itself, a cycle without a limit")
                return
        if left:
            cycle = " and ".join(map(str, left))
            yield Fault(
                ("steps", min(left) - 1, "inputs"), f"steps {cycle} build on each other, a cycle without a limit"
            )


@dataclass(frozen=True, slots=True)
class Missing:
    """Nobody suits: the skill that is missing, why, and what of the task asks for it."""

    skill: str
    why: str
    task: str


def where(place: Sequence[str | int]) -> str:
    """steps[1].agents, counted from 1 as a person counts."""
    told = ""
    for part in place:
        told += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if told else part
    return told or "the file"
