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
from plural.agents.contract import Contract, Output, contract_of
from plural.agents.effects import outfitted
from plural.agents.loop import ChatRunnable, Equipment, work
from plural.agents.tools import REPEATABLE, as_tools
from plural.errors import PromptError, SettingsError
from plural.protocols import Constrainable
from plural.types import Event, RunFinished, StepFinished, TextDelta

AgentInput = str | BaseMessage | PromptValue | Sequence[Any] | Mapping[str, Any]


class AgentTask(BaseModel):
    """What an agent used as a tool is given."""

    input: str = Field(description="What to do, with everything that is needed to know.")


class Agent(Runnable[AgentInput, Any]):
    """Answers with a text, or with the value of its output contract.

    Input: a text, messages, a prompt's value, or a dict with "messages" or "input". `stream` yields the text as it is
    written (also what is said before a tool call), or the value once when there is a contract. `events` tells all.

    Args:
        name: who it is, in events and traces.
        model: a LangChain chat model, or a Runnable around one.
        instructions: what the model is told first.
        tools: functions, LangChain tools, or other agents.
        output: a JSON Schema, a pydantic model, a regular expression or a list of choices. A model that takes grammars
            is held to it; any answer is checked, and an answer that breaks it is asked for once more.
        max_steps: model calls for one answer.
        description: what it is for; what a model reads when the agent is used as a tool.

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
        max_steps: int = 8,
        description: str = "",
    ) -> None:
        if not name.strip():
            raise SettingsError("An agent needs a name.")
        if not isinstance(model, Runnable):
            raise SettingsError(f"The model of agent {name!r} is {model!r}.", hint="Give it a LangChain chat model.")
        if max_steps < 1:
            raise SettingsError(f"max_steps of agent {name!r} is {max_steps}; it must be at least 1.")
        self.name: str = name
        self.model = model
        self.instructions = instructions
        self.description = description
        self.tools = as_tools(tools)
        self.contract = contract_of(output)
        self._kit = _equipment(name, model, self.tools, self.contract, max_steps)

    # ----------------------------------------------------------------------------------------------------- running
    async def events(
        self, input: AgentInput, config: RunnableConfig | None = None, *, step: int = 0
    ) -> AsyncIterator[Event]:
        """Everything that happens, typed, as it happens; the last event is RunFinished. `step` marks them all."""

        async def inside(_: AsyncIterator[AgentInput], config: RunnableConfig) -> AsyncIterator[Event]:
            async for _input in _:
                async for event in work(outfitted(self._kit, step, config), self._messages(_input), step, config):
                    yield event
                    if isinstance(event, StepFinished):
                        yield RunFinished(event.answer, event.usage, event.seconds)

        async for event in self._atransform_stream_with_config(_single(input), inside, config):  # type: ignore[arg-type]  # config alone is taken, too
            yield event

    async def ainvoke(self, input: AgentInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        _refuse(kwargs)
        return await self._acall_with_config(self._answer, input, config)  # type: ignore[arg-type]

    async def astream(
        self, input: AgentInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        _refuse(kwargs)
        async for chunk in self._atransform_stream_with_config(_single(input), self._spoken, config):  # type: ignore[arg-type]
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
            SettingsError: `arg_types` was given: an agent's input is described by a schema.
        """
        if arg_types is not None:
            raise SettingsError(f"arg_types is {arg_types!r}.", hint="Describe the input by args_schema.")

        async def run(config: RunnableConfig, **arguments: Any) -> Any:
            return await self.ainvoke(arguments, config)

        def run_sync(config: RunnableConfig, **arguments: Any) -> Any:
            return self.invoke(arguments, config)

        return StructuredTool.from_function(
            func=run_sync,
            coroutine=run,
            name=name or self.name,
            description=description or self.description or f"Asks {self.name}.",
            args_schema=args_schema or AgentTask,
            metadata=dict(REPEATABLE),  # what the agent itself did is not done again: the journal knows it
        )

    # ------------------------------------------------------------------------------------------------------ inside
    async def _answer(self, input: AgentInput, config: RunnableConfig) -> Any:
        answer = ""
        async for event in work(outfitted(self._kit, 0, config), self._messages(input), 0, config):
            if isinstance(event, StepFinished):
                answer = event.answer
        return self.contract.parse(answer) if self.contract else answer

    async def _spoken(self, inputs: AsyncIterator[AgentInput], config: RunnableConfig) -> AsyncIterator[Any]:
        async for input in inputs:
            spoken = False
            async for event in work(outfitted(self._kit, 0, config), self._messages(input), 0, config):
                match event:
                    case StepFinished(answer=answer) if self.contract:
                        yield self.contract.parse(answer)
                    case StepFinished(answer=answer) if not spoken:
                        yield answer  # a tool's result is the answer
                    case TextDelta(text=text) if not self.contract:
                        spoken = True
                        yield text

    def _messages(self, input: AgentInput) -> list[BaseMessage]:
        messages = _read(input)
        if not any(str(message.text).strip() for message in messages):
            raise PromptError(f"The input of agent {self.name!r} is empty.", hint="Say what you want.")
        if not self.instructions:
            return messages
        if isinstance(messages[0], SystemMessage):
            return [SystemMessage(f"{self.instructions}\n\n{messages[0].text}"), *messages[1:]]
        return [SystemMessage(self.instructions), *messages]


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


def _equipment(
    name: str,
    model: Runnable[LanguageModelInput, Any],
    tools: Sequence[BaseTool],
    contract: Contract | None,
    max_steps: int,
) -> Equipment:
    speaking: ChatRunnable = model.bind(grammar=contract.grammar) if contract and constrainable(model) else model
    calling: ChatRunnable = speaking
    if tools:
        try:
            calling = model.bind_tools(tools)  # type: ignore[attr-defined]
            if contract is None and constrainable(model):
                speaking = model.bind_tools(tools, tool_choice="none")  # type: ignore[attr-defined]
        except (AttributeError, NotImplementedError) as error:
            raise SettingsError(
                f"The model of agent {name!r} cannot call tools.", hint="Give another model."
            ) from error
    return Equipment(name, calling, speaking, {each.name: each for each in tools}, contract, max_steps)


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
