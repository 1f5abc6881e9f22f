"""Drafting: a planner names agents and steps, observers look at both, in rounds, until nothing has to be changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig

from plural.agents.agent import constrainable
from plural.errors import PromptError
from plural.teams.drafting import prompts
from plural.teams.drafting.drafts import GENERAL, Draft, DraftedAgent, DraftedStep, Missing, Sizes, Ways
from plural.teams.drafting.forms import plan_faults, plan_form, team_form, verdict_form
from plural.teams.drafting.staff import Staff
from plural.teams.insisting import insist
from plural.types import Decided, Decision

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
) -> AsyncIterator[Decided | Draft | Missing]:
    """Every decision on the way, numbered by round; at last the draft, or the skill that is missing.

    Args:
        known: what was remembered from before; the planner and the agents read it.
        may_lack: the planner may say that nobody suits.

    Raises:
        ContractError: the model cannot write a team or a plan: it asked for too many agents, say, whatever it was told.
    """
    if not task.strip():
        raise PromptError("The task is empty.", hint="Say what you want.")
    desk = _Desk(task, staff, sizes, known, config)
    remarks: list[str] = []
    agents: tuple[DraftedAgent, ...] = ()
    steps: tuple[DraftedStep, ...] = ()
    for number in range(1, ways.rounds + 1):
        before = [prompts.again(agents, steps, remarks)] if remarks else []
        team = await desk.team(before, may_lack=may_lack and bool(staff.specialists))
        yield Decided(number, PLANNER, "team", team)
        if "missing" in team.value:
            yield Missing(team.value["missing"], team.value["why"], task)
            return
        agents = _agents(team.value["agents"])
        plan = await desk.plan(agents, before)
        yield Decided(number, PLANNER, "plan", plan)
        steps = tuple(_step(each) for each in plan.value["steps"])
        if not ways.observers:
            break
        verdicts = dict(zip((AGENTS, PLAN), await desk.observed(agents, steps), strict=True))
        for by, verdict in verdicts.items():
            yield Decided(number, by, "verdict", verdict)
        remarks = [f"{by}: {each.value['suggestions']}" for by, each in verdicts.items() if not each.value["good"]]
        if not remarks:
            break
    agents = await assigned(agents, steps, staff)
    yield Draft(
        task=task,
        agents=agents,
        steps=steps,
        ways=ways,
        sizes=sizes,
        known=tuple(known),
        unsettled=tuple(remarks),
    )


class _Desk:
    """Where the planner and the observers are asked."""

    def __init__(
        self, task: str, staff: Staff, sizes: Sizes, known: Sequence[str], config: RunnableConfig | None
    ) -> None:
        self._task, self._staff, self._sizes, self._known, self._config = task, staff, sizes, known, config

    async def team(self, before: Sequence[str], *, may_lack: bool) -> Decision[Any]:
        staff = self._staff
        tools = {name: tool.description for name, tool in staff.tools.items()}
        form = team_form(self._sizes, list(staff.specialists), list(tools), may_lack=may_lack)
        return await self._asked(
            prompts.PLANNER, prompts.team(self._task, staff.specialists, tools, self._known, before), form
        )

    async def plan(self, agents: Sequence[DraftedAgent], before: Sequence[str]) -> Decision[Any]:
        names = [agent.name for agent in agents]
        form = plan_form(self._sizes, names, exact=constrainable(self._staff.general))
        wish = prompts.plan(self._task, agents, before)
        said = [SystemMessage(prompts.PLANNER), HumanMessage(wish)]
        return await insist(self._staff.general, said, schema=form, faults=plan_faults, config=self._config)

    async def observed(
        self, agents: Sequence[DraftedAgent], steps: Sequence[DraftedStep]
    ) -> tuple[Decision[Any], Decision[Any]]:
        """Both at once: what the one looks at is not what the other does."""
        form = verdict_form(self._sizes)
        return await asyncio.gather(
            self._asked(prompts.AGENT_OBSERVER, prompts.observe(self._task, agents), form),
            self._asked(prompts.PLAN_OBSERVER, prompts.observe(self._task, agents, steps), form),
        )

    async def _asked(self, role: str, wish: str, form: Mapping[str, Any]) -> Decision[Any]:
        said: list[BaseMessage] = [SystemMessage(role), HumanMessage(wish)]
        return await insist(self._staff.general, said, schema=form, config=self._config)


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
