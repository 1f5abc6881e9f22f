"""Tools from plain functions: what the model is told of them, and calling them so that nothing they do is a crash.

A tool is langchain-core's `BaseTool`. Its arguments and their meaning come from type hints and a Google-style
docstring.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints, overload

from langchain_core.messages import ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUserError

from plural.agents.marks import attempt
from plural.errors import ToolError
from plural.types import ToolCall, ToolSpec

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PROVIDED = frozenset({"callbacks", "run_manager", "config"})  # filled in by langchain-core, never by a model


@overload
def tool(function: Callable[..., Any], /) -> BaseTool: ...


@overload
def tool(*, name: str | None = None, return_direct: bool = False) -> Callable[[Callable[..., Any]], BaseTool]: ...


def tool(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, return_direct: bool = False
) -> BaseTool | Callable[[Callable[..., Any]], BaseTool]:
    """Makes a tool of a sync or async function; usable bare (`@tool`) or with options (`@tool(return_direct=True)`).

    Every argument needs a type hint, and the function a docstring: both are what the model reads. With `return_direct`
    the tool's result is the agent's answer, without another word from the model.

    Raises:
        ToolError: the signature or the docstring does not say what the tool takes.
    """
    if function is None:
        return lambda decorated: _wrap(decorated, name, return_direct)
    return _wrap(function, name, return_direct)


def as_tools(items: Sequence[Any]) -> tuple[BaseTool, ...]:
    """Functions, LangChain tools and agents as tools, in order. Names must differ.

    Raises:
        ToolError: something that is none of these, or a name given twice.
    """
    tools = tuple(_as_tool(item) for item in items)
    names = [each.name for each in tools]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ToolError(f"Two tools are called {twice[0]!r}.", hint="Give one of them another name.")
    return tools


def tool_specs(tools: Sequence[Any]) -> tuple[ToolSpec, ...]:
    """What a model is told of these tools."""
    return tuple(_spec(each) for each in as_tools(tools))


async def call_tool(
    tools: Mapping[str, BaseTool], call: ToolCall, config: RunnableConfig | None = None
) -> tuple[str, bool]:
    """Runs one call; a sync tool runs in a thread. Returns (what the model is told, whether it failed). Never raises
    for what the call or the tool did: the text then names the tool, the arguments and their values."""
    chosen = tools.get(call.name)
    if chosen is None:
        return f"There is no tool {call.name!r}. Tools: {', '.join(tools)}.", True
    # A tool whose arguments are described by JSON Schema, as those of others are, is not told of by LangChain's method.
    schema = chosen.args_schema if isinstance(chosen.args_schema, dict) else _schema(chosen.get_input_schema())
    unknown = sorted(set(call.arguments) - set(schema.get("properties", {})))
    if unknown and not schema.get("additionalProperties"):
        values = ", ".join(f"{name}={call.arguments[name]!r}" for name in unknown)
        return f"{call.name} takes no argument {values}. It takes: {', '.join(chosen.args) or 'none'}.", True
    request = {"type": "tool_call", "id": call.id, "name": call.name, "args": dict(call.arguments)}
    try:
        result = await attempt(chosen, request, config)
    except ValidationError as error:
        return f"{call.name} was called wrongly: {_wrong_arguments(error)}.", True
    except Exception as error:  # noqa: BLE001 - a tool is foreign code: what it raises is the model's to read
        values = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
        return f"{call.name}({values}) failed: {_said(error)}", True
    if isinstance(result, ToolMessage):
        return _text(result.content), result.status == "error"
    return _text(result), False


@functools.lru_cache(maxsize=1024)
def _schema(arguments: type[BaseModel]) -> dict[str, Any]:
    return arguments.model_json_schema()  # which takes as long as a small tool


def _as_tool(item: Any) -> BaseTool:
    if isinstance(item, BaseTool):
        _spec(item)
        return item
    if isinstance(item, Runnable):
        return item.as_tool()
    if callable(item):
        return tool(item)
    raise ToolError(f"{item!r} is not a tool.", hint="Give a function, a LangChain tool or an agent.")


def _wrap(function: Callable[..., Any], name: str | None, return_direct: bool) -> BaseTool:
    label = str(name or getattr(function, "__name__", type(function).__name__))
    if not _NAME.fullmatch(label):
        raise ToolError(f"A tool cannot be called {label!r}.", hint="Use letters, digits, _ and -; at most 64.")
    if not inspect.getdoc(function):
        raise ToolError(f"Tool {label!r} has no docstring.", hint="The model reads it to know when to call the tool.")
    _check_arguments(function, label)
    is_async = inspect.iscoroutinefunction(function)
    try:
        made = StructuredTool.from_function(
            func=None if is_async else function,
            coroutine=function if is_async else None,
            name=label,
            return_direct=return_direct,
            parse_docstring=True,
        )
    except ValueError as error:
        raise ToolError(f"The docstring of tool {label!r} does not fit its signature: {error}") from error
    _spec(made)
    return made


def _check_arguments(function: Callable[..., Any], label: str) -> None:
    for argument in inspect.signature(function).parameters.values():
        if argument.name in _PROVIDED:
            continue
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            raise ToolError(f"Tool {label!r} takes {argument}.", hint="A model needs every argument by name.")
        if argument.annotation is argument.empty:
            raise ToolError(
                f"Argument {argument.name!r} of tool {label!r} has no type hint.",
                hint=f"Write it as {argument.name}: str, or whatever it is.",
            )
    try:
        get_type_hints(function)
    except NameError as error:
        raise ToolError(f"A type hint of tool {label!r} cannot be resolved: {error}.") from error


def _spec(item: BaseTool) -> ToolSpec:
    try:
        described = convert_to_openai_tool(item)["function"]
    except PydanticUserError as error:
        raise ToolError(
            f"An argument of tool {item.name!r} has no JSON form: {error.message}", hint="Use plain types or pydantic."
        ) from error
    empty = {"type": "object", "properties": {}}
    return ToolSpec(described["name"], described.get("description", ""), described.get("parameters") or empty)


def _wrong_arguments(error: ValidationError) -> str:
    return "; ".join(
        f"argument {'.'.join(map(str, problem['loc']))!r} = {problem['input']!r}: {problem['msg']}"
        if problem["type"] != "missing"
        else f"argument {'.'.join(map(str, problem['loc']))!r} is missing"
        for problem in error.errors()
    )


def _said(error: Exception) -> str:
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return "; ".join((said, *getattr(error, "__notes__", ())))


def _text(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
