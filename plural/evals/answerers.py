"""Any LangChain chat model as something that evals can score."""

from __future__ import annotations

import json
from collections.abc import Sequence

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import Runnable

from plural.errors import SettingsError
from plural.types import Message, ToolSpec, Usage


class ChatAnswerer:
    """Asks the model as it is: no loop, no tools run. Calls are answered as the JSON list of name and arguments.

    `usage` counts the tokens of all answers so far.
    """

    def __init__(self, model: Runnable[LanguageModelInput, AIMessage], *, tool_choice: str = "auto") -> None:
        self._model = model
        self._tool_choice = tool_choice
        self.usage = Usage()

    async def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
        model = self._model
        if tools:
            bind = getattr(model, "bind_tools", None)
            if bind is None:
                raise SettingsError(f"{model!r} cannot call tools, but the rows have some.")
            model = bind([_as_dict(tool) for tool in tools], tool_choice=self._tool_choice)
        said = await model.ainvoke([to_langchain(message) for message in messages])
        if used := said.usage_metadata:
            self.usage += Usage(used["input_tokens"], used["output_tokens"])
        if said.tool_calls:
            return json.dumps([{"name": call["name"], "arguments": call["args"]} for call in said.tool_calls])
        return str(said.text)


def to_langchain(message: Message) -> BaseMessage:
    match message.role:
        case "system":
            return SystemMessage(message.content)
        case "user":
            return HumanMessage(message.content)
        case "tool":
            return ToolMessage(message.content, tool_call_id=message.tool_call_id or "")
    calls = [{"name": call.name, "args": dict(call.arguments), "id": call.id} for call in message.tool_calls]
    return AIMessage(message.content, tool_calls=calls)


def _as_dict(tool: ToolSpec) -> dict[str, object]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}
