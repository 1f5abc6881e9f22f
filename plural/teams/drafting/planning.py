"""Drafting: a planner names agents and steps, observers look at both, in rounds, until nothing has to be changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig

from plural.agents.agent import constrainable
from plural.agents.budget import paid
from plural.errors import LimitError, PromptError
from plural.teams.drafting import prompts
from plural.teams.drafting.drafts import GENERAL, Draft, DraftedAgent, DraftedStep, Missing, Sizes, Ways
from plural.teams.drafting.forms import plan_faults, plan_form, team_form, verdict_form
from plural.teams.drafting.staff import Staff
from plural.teams.insisting import insist
from plural.types import Decided, Decision, LimitReached

PLANNER, AGENTS, PLAN = "planner", "agent observer", "plan observer"


async def draft(
    task: str,
    staff: Staff,
    *,
    ways: Ways = Ways(),
    sizes: Sizes = Sizes(),
    known: Sequence[str] = (),
    may_lack: bool = True,
    config: RunnableConfig | None = None,
) -> AsyncIterator[Decided | LimitReached | Draft | Missing]:
    """Every decision on the way, numbered by round; at last the draft, or the skill that is missing.

    Args:
        known: what was remembered from before; the planner and the agents read it.
        may_lack: the planner may say that nobody suits.

    What is decided is paid from the purse in the config. When that is empty, the last whole plan stands.

    Raises:
        ContractError: the model cannot write a team or a plan: it asked for too many agents, say, whatever it was told.
        LimitError: the purse is empty before there is a plan.
    """
    if not task.strip():
        raise PromptError("The task is empty.", hint="Say what you want.")
    desk, made = _Desk(task, staff, sizes, known, config), _Made()
    try:
        async for each in _rounds(desk, made, ways.rounds, observed=ways.observers, may_lack=may_lack):
            yield each
    except LimitError as error:
        if not error.limit or not made.steps:
            raise
        yield LimitReached(made.number, PLANNER, error.limit, error.value)
        made.remarks = [*made.remarks, f"The budget's {error.limit} were used up before everybody was content."]
    if made.lacks:
        return
    yield Draft(
        task=task,
        agents=await assigned(made.agents, made.steps, staff),
        steps=made.steps,
        ways=ways,
        sizes=sizes,
        known=tuple(known),
        unsettled=tuple(made.remarks),
    )


@dataclass(slots=True)
class _Made:
    """The last whole plan, what was said against it, and the round under way."""

    agents: tuple[DraftedAgent, ...] = ()
    steps: tuple[DraftedStep, ...] = ()
    remarks: list[str] = field(default_factory=list)
    number: int = 0
    lacks: bool = False


async def _rounds(
    desk: _Desk, made: _Made, most: int, *, observed: bool, may_lack: bool
) -> AsyncIterator[Decided | Missing]:
    """Planner and observers, until nothing has to be changed; `made` knows what came of it."""
    for made.number in range(1, most + 1):
        before = [prompts.again(made.agents, made.steps, made.remarks)] if made.remarks else []
        team = await desk.team(before, may_lack=may_lack)
        yield Decided(made.number, PLANNER, "team", team)
        if "missing" in team.value:
            made.lacks = True
            yield Missing(team.value["missing"], team.value["why"], desk.task)
            return
        agents = _agents(team.value["agents"])
        plan = await desk.plan(agents, before)
        yield Decided(made.number, PLANNER, "plan", plan)
        made.agents, made.steps, made.remarks = agents, tuple(_step(each) for each in plan.value["steps"]), []
        if not observed:
            return
        verdicts = dict(zip((AGENTS, PLAN), await desk.observed(made.agents, made.steps), strict=True))
        for by, verdict in verdicts.items():
            yield Decided(made.number, by, "verdict", verdict)
        remarks = [f"{by}: {each.value['suggestions']}" for by, each in verdicts.items() if not each.value["good"]]
        made.remarks = remarks
        if not remarks:
            return


class _Desk:
    """Where the planner and the observers are asked."""

    def __init__(
        self, task: str, staff: Staff, sizes: Sizes, known: Sequence[str], config: RunnableConfig | None
    ) -> None:
        self.task, self._staff, self._sizes, self._known, self._config = task, staff, sizes, known, config

    async def team(self, before: Sequence[str], *, may_lack: bool) -> Decision[Any]:
        staff = self._staff
        tools = {name: tool.description for name, tool in staff.tools.items()}
        may_lack = may_lack and bool(staff.specialists)
        form = team_form(self._sizes, list(staff.specialists), list(tools), may_lack=may_lack)
        return await self._asked(
            prompts.PLANNER, prompts.team(self.task, staff.specialists, tools, self._known, before), form
        )

    async def plan(self, agents: Sequence[DraftedAgent], before: Sequence[str]) -> Decision[Any]:
        names = [agent.name for agent in agents]
        form = plan_form(self._sizes, names, exact=constrainable(self._staff.general))
        return await self._asked(prompts.PLANNER, prompts.plan(self.task, agents, before), form, faults=plan_faults)

    async def observed(
        self, agents: Sequence[DraftedAgent], steps: Sequence[DraftedStep]
    ) -> tuple[Decision[Any], Decision[Any]]:
        """Both at once: what the one looks at is not what the other does."""
        form, task = verdict_form(self._sizes), self.task
        asked = [
            asyncio.ensure_future(self._asked(prompts.AGENT_OBSERVER, prompts.observe(task, agents), form)),
            asyncio.ensure_future(self._asked(prompts.PLAN_OBSERVER, prompts.observe(task, agents, steps), form)),
        ]
        try:
            team, plan = await asyncio.gather(*asked)
        finally:
            for each in asked:
                each.cancel()
        return team, plan

    async def _asked(self, role: str, wish: str, form: Mapping[str, Any], **more: Any) -> Decision[Any]:
        said: list[BaseMessage] = [SystemMessage(role), HumanMessage(wish)]
        general, config = self._staff.general, self._config
        return await paid(lambda: insist(general, said, schema=form, config=config, **more), config, self._staff.price)


def _agents(given: Sequence[Mapping[str, Any]]) -> tuple[DraftedAgent, ...]:
    """With names that differ: a second `writer` is `writer_2`, which the observer of the agents reads."""
    made: list[DraftedAgent] = []
    for each in given:
        taken, name, number = {agent.name for agent in made}, each["name"], 2
        while name in taken:
            name, number = f"{each['name']}_{number}", number + 1
        tools = tuple(dict.fromkeys(each["tools"]))
        found = "" if each["specialist"] == GENERAL else "by its card"
        made.append(DraftedAgent(**{**each, "name": name, "tools": tools, "found": found}))
    return tuple(made)


def _step(given: Mapping[str, Any]) -> DraftedStep:
    agents, inputs = (tuple(dict.fromkeys(given[key])) for key in ("agents", "inputs"))
    return DraftedStep(task=given["task"], agents=agents, inputs=inputs, expects=given["expects"])


async def assigned(
    agents: Sequence[DraftedAgent], steps: Sequence[DraftedStep], staff: Staff
) -> tuple[DraftedAgent, ...]:
    """The specialist of each: the router's, where it is sure of what the agent has to do; else the one that the planner
    found by its card. Who has to talk with others is no specialist: those know one kind of task, not conversations."""
    return tuple([await _assigned(agent, steps, staff) for agent in agents])


async def _assigned(agent: DraftedAgent, steps: Sequence[DraftedStep], staff: Staff) -> DraftedAgent:
    own = [step for step in steps if agent.name in step.agents]
    if any(step.together for step in own):
        return agent.model_copy(update={"specialist": GENERAL, "found": ""})
    routed = [await staff.route(step.task) for step in own] if staff.route else []
    sure = {decision.value for decision in routed}
    if len(sure) == 1 and (name := sure.pop()) in staff.specialists:
        found = f"by the router, {min(decision.probability for decision in routed):.2f}"
        return agent.model_copy(update={"specialist": name, "tools": (), "found": found})
    if agent.specialist != GENERAL:
        return agent.model_copy(update={"tools": ()})  # it brings its own
    return agent
