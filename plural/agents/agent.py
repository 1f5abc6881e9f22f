"""An agent: instructions, a chat model, tools and an output contract, as a LangChain Runnable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.runnables.graph import Graph
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field

from plural import sync
from plural.agents.approval import Reviewed
from plural.agents.budget import Budget, Price, Purse, purse_in, spending
from plural.agents.contract import Contract, Output, contract_of
from plural.agents.desk import Desk, taken_up
from plural.agents.effects import outfitted
from plural.agents.loop import ChatRunnable, Equipment, work
from plural.agents.marks import mark, marks_of
from plural.agents.middleware import Middleware
from plural.agents.tools import as_tools
from plural.agents.traces import AGENT, STEP, about
from plural.errors import PromptError, SettingsError
from plural.protocols import Constrainable
from plural.types import Event, HandedOff, Paused, RunFinished, StepFinished, TextDelta

AgentInput = str | BaseMessage | PromptValue | Sequence[Any] | Mapping[str, Any] | Reviewed


class AgentTask(BaseModel):
    """What an agent used as a tool is given."""

    input: str = Field(description="What to do, with everything that is needed to know.")


class Agent(Runnable[AgentInput, Any]):
    """Answers with a text, or with the value of its output contract.

    Input: a text, messages, a prompt's value, a dict with "messages" or "input", or a paused run that a person has
    reviewed. `stream` yields the text as it is written (also what is said before a tool call), or the value once when
    there is a contract. `events` tells all. In the place of an answer there may be a `HandedOff`, when a tool of
    `handoff_to` was called, or a `Paused`, when a tool that is marked so waits for approval.

    Args:
        name: who it is, in events and traces.
        model: a LangChain chat model, or a Runnable around one.
        instructions: what the model is told first.
        tools: functions, LangChain tools, or other agents.
        output: a JSON Schema, a pydantic model, a regular expression or a list of choices. A model that takes grammars
            is held to it; any answer is checked, and an answer that breaks it is asked for once more.
        budget: what one answer may cost. Whoever calls the agent under a purse of theirs pays as well (`spending`).
        price: what the model's tokens cost, for a budget of money.
        middleware: what stands around model and tools; memories are, too.
        description: what it is for; what a model reads when the agent is used as a tool.
        shared_first: the model reads the transcript first, and what is this agent's own (instructions, and tools where
            the model can) after it. Agents that read one transcript then share what was computed of it.

    Raises:
        SettingsError, ToolError, GrammarError: when it is made from parts that cannot work.
        LimitError, ContractError: when a run gives no answer, or not one that the contract allows.
    """

    def __init__(
        self,
        name: str,
        model: Runnable[LanguageModelInput, Any],
        *,
        instructions: str = "",
        tools: Sequence[Any] = (),
        output: Output | None = None,
        budget: Budget = Budget(steps=16),
        price: Price = Price(),
        middleware: Sequence[Middleware] = (),
        description: str = "",
        shared_first: bool = False,
    ) -> None:
        if not name.strip():
            raise SettingsError("An agent needs a name.")
        if not isinstance(model, Runnable):
            raise SettingsError(f"The model of agent {name!r} is {model!r}.", hint="Give it a LangChain chat model.")
        self.name: str = name
        self.model = model
        self.instructions = instructions
        self.description = description
        self.tools = as_tools(tools)
        self.contract = contract_of(output)
        self.budget, self.price = budget, price
        own = [SystemMessage(instructions)] if instructions else []
        self._first, last = ([], own) if shared_first else (own, [])
        self._kit = Equipment(
            name,
            model,
            *_ways(name, model, self.tools, self.contract, shared_first),
            constrainable(model),
            {each.name: each for each in self.tools},
            self.contract,
            tuple(middleware),
            price,
            tuple(last),
        )

    # ----------------------------------------------------------------------------------------------------- running
    def events(self, input: AgentInput, config: RunnableConfig | None = None, *, step: int = 0) -> sync.Stream[Event]:
        """Everything that happens, typed, as it happens, for `for` and for `async for`; `step` marks it all. The last
        event is RunFinished, or HandedOff or Paused when somebody else has to go on."""

        async def inside(inputs: AsyncIterator[AgentInput], config: RunnableConfig) -> AsyncIterator[Event]:
            async for each in inputs:
                async for event in self._work(each, config, step):
                    yield event
                    if isinstance(event, StepFinished):
                        yield RunFinished(event.answer, event.usage, event.seconds, event.money)

        told = about(config, **{AGENT: self.name, STEP: step})
        return sync.Stream(self._atransform_stream_with_config(_single(input), inside, told))  # type: ignore[arg-type]

    async def ainvoke(self, input: AgentInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        _refuse(kwargs)
        return await self._acall_with_config(self._answer, input, about(config, **{AGENT: self.name}))  # type: ignore[arg-type]

    async def astream(
        self, input: AgentInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        _refuse(kwargs)
        told = about(config, **{AGENT: self.name})
        async for chunk in self._atransform_stream_with_config(_single(input), self._spoken, told):  # type: ignore[arg-type]
            yield chunk

    def invoke(self, input: AgentInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return sync.run(self.ainvoke(input, config, **kwargs))

    def stream(self, input: AgentInput, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        return sync.iterate(self.astream(input, config, **kwargs))

    def batch(
        self,
        inputs: list[AgentInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """All at once, so that they meet in one batch of the model; LangChain's own takes a thread for each."""
        return sync.run(self.abatch(inputs, config, return_exceptions=return_exceptions, **kwargs))

    def get_graph(self, config: RunnableConfig | None = None) -> Graph:  # noqa: ARG002 - LangChain's signature
        """The loop: the model, its tools, and the way back."""
        graph = Graph()
        given = graph.add_node(self.get_input_schema())
        model = graph.add_node(self)
        answer = graph.add_node(self.get_output_schema())
        graph.add_edge(given, model)
        for each in self.tools:
            tool = graph.add_node(each)
            graph.add_edge(model, tool, conditional=True)
            graph.add_edge(tool, model, conditional=each.return_direct)  # which goes on only when it failed
            if each.return_direct:
                graph.add_edge(tool, answer, conditional=True)
        graph.add_edge(model, answer, conditional=bool(self.tools))
        return graph

    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: dict[str, type] | None = None,
    ) -> BaseTool:
        """The agent as another agent's tool. It takes one argument, `input`, unless `args_schema` says otherwise.

        Raises:
            SettingsError: `arg_types` was given: an agent's input is described by a schema. Or it may have to wait for
                a person or hand over, which it cannot as a tool.
        """
        for each in self.tools:
            if marks_of(each).approval or marks_of(each).handoff:
                raise SettingsError(
                    f"Agent {self.name!r} cannot be a tool: its tool {each.name!r} may end its work without an answer.",
                    hint="Hand over to it, or mark the agent's tool itself for approval.",
                )
        if arg_types is not None:
            raise SettingsError(f"arg_types is {arg_types!r}.", hint="Describe the input by args_schema.")

        about = description or self.description or f"Asks {self.name}."
        return asked_as_tool(self, name or self.name, about, args_schema or AgentTask)

    # ------------------------------------------------------------------------------------------------------ inside
    def _work(self, input: AgentInput, config: RunnableConfig, step: int = 0) -> AsyncIterator[Event]:
        payer = purse_in(config)
        if isinstance(input, Reviewed):
            desk = taken_up(input, self.name, self.budget, payer)
        else:
            desk = Desk(step, Purse(self.budget, self.name, parent=payer), self._messages(input))
        return work(outfitted(self._kit, desk.step, config), desk, spending(desk.purse, config))

    async def _answer(self, input: AgentInput, config: RunnableConfig) -> Any:
        outcome: Any = None
        async for event in self._work(input, config):
            match event:
                case StepFinished(answer=answer):
                    outcome = self.contract.parse(answer) if self.contract else answer
                case HandedOff() | Paused():
                    outcome = event
        return outcome

    async def _spoken(self, inputs: AsyncIterator[AgentInput], config: RunnableConfig) -> AsyncIterator[Any]:
        async for input in inputs:
            spoken = False
            async for event in self._work(input, config):
                match event:
                    case StepFinished(answer=answer) if self.contract:
                        yield self.contract.parse(answer)
                    case StepFinished(answer=answer) if not spoken:
                        yield answer  # a tool's result is the answer
                    case TextDelta(text=text) if not self.contract:
                        spoken = True
                        yield text
                    case HandedOff() | Paused():
                        yield event

    def _messages(self, input: AgentInput) -> list[BaseMessage]:
        messages = _read(input)
        if not any(str(message.text).strip() for message in messages):
            raise PromptError(f"The input of agent {self.name!r} is empty.", hint="Say what you want.")
        if self._first and isinstance(messages[0], SystemMessage):
            return [SystemMessage(f"{self.instructions}\n\n{messages[0].text}"), *messages[1:]]
        return [*self._first, *messages]


def asked_as_tool(
    asked: Runnable[Any, Any], name: str, description: str, args_schema: type[BaseModel] = AgentTask
) -> BaseTool:
    """Whoever answers a request, as another agent's tool."""

    async def run(config: RunnableConfig, **arguments: Any) -> Any:
        return await asked.ainvoke(arguments, config)

    def run_sync(config: RunnableConfig, **arguments: Any) -> Any:
        return asked.invoke(arguments, config)

    made = StructuredTool.from_function(
        func=run_sync, coroutine=run, name=name, description=description, args_schema=args_schema
    )
    return mark(made, idempotent=True, retries=0)  # the journal knows what was done inside: it is not done again


def task_of(input: AgentInput) -> str:
    """What the user said last. Raises PromptError when that is nothing."""
    said = next((str(message.text) for message in reversed(_read(input)) if message.type == "human"), "")
    if not said.strip():
        raise PromptError(f"There is no request in {input!r}.", hint="Say what you want.")
    return said


def _read(input: AgentInput) -> list[BaseMessage]:
    match input:
        case str():
            return [HumanMessage(input)]
        case BaseMessage():
            return [input]
        case PromptValue():
            return input.to_messages()
        case {"messages": messages}:
            return convert_to_messages(messages)
        case {"input": inner} if isinstance(inner, str | BaseMessage | PromptValue | list | tuple):
            return _read(inner)
        case list() | tuple():
            return convert_to_messages(input)
    raise PromptError(
        f"An agent cannot read {input!r}.", hint='Give a text, messages, or a dict with "messages" or "input".'
    )


def _ways(
    name: str, model: ChatRunnable, tools: Sequence[BaseTool], contract: Contract | None, shared_first: bool
) -> tuple[ChatRunnable, ChatRunnable]:
    """The model as it may call tools, and as it has to answer."""
    held = constrainable(model)
    options: dict[str, Any] = {"own_last": True} if held and shared_first else {}
    bound: ChatRunnable = model.bind(**options) if options else model
    speaking: ChatRunnable = bound.bind(grammar=contract.grammar) if contract and held else bound
    if not tools:
        return speaking, speaking
    try:
        calling = _with_tools(model, tools, options)
        if contract is None and held:
            speaking = _with_tools(model, tools, {**options, "tool_choice": "none"})
    except (AttributeError, NotImplementedError) as error:
        raise SettingsError(f"The model of agent {name!r} cannot call tools.", hint="Give another model.") from error
    return calling, speaking


def _with_tools(model: ChatRunnable, tools: Sequence[BaseTool], options: Mapping[str, Any]) -> ChatRunnable:
    """The model offered these tools. What was bound to it stays bound; a binding's own `bind_tools` would lose it."""
    if isinstance(model, RunnableBinding):
        bound = {key: value for key, value in model.kwargs.items() if key not in ("tools", "tool_choice")}
        inner = _with_tools(model.bound, tools, {**bound, **options})
        return model.model_copy(update={"bound": inner, "kwargs": {}})
    offered: ChatRunnable = model.bind_tools(tools, **options)  # type: ignore[attr-defined]
    return offered


def constrainable(model: Runnable[Any, Any]) -> bool:
    """Can its output be held to a grammar, whatever is bound to it already?"""
    while isinstance(model, RunnableBinding):
        model = model.bound
    return isinstance(model, Constrainable)


def _refuse(options: Mapping[str, Any]) -> None:
    if options:
        raise SettingsError(f"An agent does not know {', '.join(sorted(options))}.", hint="Bind it to its model.")


async def _single(input: AgentInput) -> AsyncIterator[AgentInput]:
    yield input
