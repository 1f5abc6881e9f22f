"""A team: members, and a pattern that says who works next, as a LangChain Runnable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.graph import Graph
from langchain_core.tools import BaseTool
from pydantic import BaseModel

from plural import sync
from plural.agents.agent import Agent, AgentInput, AgentTask, asked_as_tool, task_of
from plural.agents.budget import Budget, Price
from plural.agents.decisions import Model
from plural.agents.traces import WORKFLOW, about
from plural.errors import PlanError, SettingsError
from plural.teams import turns
from plural.teams.patterns.state import Pattern
from plural.teams.stop import Condition, messages
from plural.types import Event, RunFinished


class Team(Runnable[AgentInput, str]):
    """Works on a task until its pattern has an answer or a condition ends it; the answer is then what was said last.

    Input is as an agent's; of messages the team reads what the user said last. A team can be a member of another, and
    an agent's tool. `events` tells everything but what goes on inside of member teams.

    Args:
        members: agents, proxies, teams. Their descriptions are what a pattern tells of them.
        pattern: of `plural.teams.patterns`, or your own.
        stop: of `plural.teams.stop`; a team never has more than `max_turns` turns.
        budget: what a run may cost, all members together; used up, the team stops with what it has.
        model: decides what the pattern asks, where no member is asked. A router does as well (`Routing`).
        price: what the tokens of `model` cost, for a budget of money. Decisions are paid from the team's budget, a step
            each.
        blend: makes the mixtures that the pattern calls for, by name; of a network it is `Network.agent`.

    Raises:
        PlanError: two members of one name, or a pattern that uses one who is not there.
        SettingsError: no members, a pattern that needs `model` or `blend`, or max_turns below 1.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[Any],
        pattern: Pattern,
        *,
        stop: Condition | None = None,
        model: Model | None = None,
        budget: Budget = Budget(),
        price: Price = Price(),
        blend: Callable[[str], turns.Member] | None = None,
        max_turns: int = 50,
        description: str = "",
    ) -> None:
        if not name.strip():
            raise SettingsError("A team needs a name.")
        self.name: str = name
        self.description, self.pattern = description, pattern
        self.members = {member.name: member for member in members}
        _check(name, members, pattern, model)
        if pattern.blends and blend is None:
            raise SettingsError(
                f"The {pattern.name} needs somebody who makes mixtures.", hint="Give the team blend=..."
            )
        ends = messages(max_turns)
        closed = frozenset(member.name for member in members if isinstance(member, Team))
        ends = stop | ends if stop else ends
        self._parts = turns.Members(self.members, closed, pattern, ends, model, name, budget, price, blend)

    # ----------------------------------------------------------------------------------------------------- running
    def events(self, input: AgentInput, config: RunnableConfig | None = None, *, step: int = 0) -> sync.Stream[Event]:
        """Everything that happens, typed, as it happens; the last event is RunFinished. Steps count from `step` + 1."""
        if step:
            raise SettingsError(f"A team's steps begin at 1, not after {step}.", hint="Make it a member of a team.")

        async def inside(given: AsyncIterator[AgentInput], config: RunnableConfig) -> AsyncIterator[Event]:
            async for task in given:
                async for event in turns.work(self._parts, task_of(task), config):
                    yield event

        told = about(config, **{WORKFLOW: self.name})
        return sync.Stream(self._atransform_stream_with_config(_single(input), inside, told))  # type: ignore[arg-type]

    async def ainvoke(self, input: AgentInput, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        _refuse(kwargs)
        return await self._acall_with_config(self._answer, input, about(config, **{WORKFLOW: self.name}))  # type: ignore[arg-type]

    def invoke(self, input: AgentInput, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        return sync.run(self.ainvoke(input, config, **kwargs))

    def batch(
        self,
        inputs: list[AgentInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """All at once, so that they meet in one batch of the model."""
        return sync.run(self.abatch(inputs, config, return_exceptions=return_exceptions, **kwargs))

    def get_graph(self, config: RunnableConfig | None = None) -> Graph:  # noqa: ARG002 - LangChain's signature
        """The members, and who may follow whom; an edge that need not be taken is dotted."""
        graph = Graph()
        given, answer = graph.add_node(self.get_input_schema()), graph.add_node(self.get_output_schema())
        nodes = {name: graph.add_node(AgentTask, id=name) for name in self.pattern.uses}
        told = [(one, two, unsure) for one, two, unsure in self.pattern.tells if one != two]
        for one, two, unsure in told:
            graph.add_edge(nodes[one], nodes[two], conditional=unsure)
        reached, leaving = {two for _, two, _ in told}, {one for one, _, _ in told}
        first = [name for name in nodes if name not in reached] or [self.pattern.uses[0]]
        last = [name for name in nodes if name not in leaving] or list(nodes)
        for name in first:
            graph.add_edge(given, nodes[name], conditional=len(first) > 1)
        for name in last:
            graph.add_edge(nodes[name], answer, conditional=len(last) > 1)
        return graph

    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: dict[str, type] | None = None,
    ) -> BaseTool:
        """The team as an agent's tool; it takes one argument, `input`.

        Raises:
            SettingsError: another schema was asked for.
        """
        if args_schema is not None or arg_types is not None:
            raise SettingsError("A team takes one text.", hint="Leave args_schema and arg_types out.")

        return asked_as_tool(self, name or self.name, description or self.description or f"Asks {self.name}.")

    # ------------------------------------------------------------------------------------------------------ inside
    async def _answer(self, input: AgentInput, config: RunnableConfig) -> str:
        answer = ""
        async for event in turns.work(self._parts, task_of(input), config):
            if isinstance(event, RunFinished):
                answer = event.answer
        return answer


def _check(team: str, members: Sequence[Any], pattern: Pattern, model: Model | None) -> None:
    names = [member.name for member in members]
    if not names:
        raise SettingsError(f"Team {team!r} has no members.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(f"Two members of team {team!r} are called {twice[0]!r}.", hint="Give one another name.")
    for name in pattern.uses:
        if name not in names:
            raise PlanError(
                f"The {pattern.name} uses {name!r}, who is no member.", hint=f"Members: {', '.join(names)}."
            )
    if pattern.decides and model is None:
        raise SettingsError(f"The {pattern.name} needs a model that decides.", hint="Give the team model=...")
    agents = {member.name for member in members if isinstance(member, Agent)}
    for name in pattern.deciders:
        if name not in agents:
            raise PlanError(f"{name!r} has no model that could decide.", hint="Only an agent can vote among options.")


def _refuse(options: dict[str, Any]) -> None:
    if options:
        raise SettingsError(f"A team does not know {', '.join(sorted(options))}.")


async def _single(input: AgentInput) -> AsyncIterator[AgentInput]:
    yield input
