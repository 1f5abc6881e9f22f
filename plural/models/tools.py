"""Tools as a model sees them: their description in few tokens, their calls as text, and the grammar of a call."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plural.errors import GrammarError
from plural.models.tokenizer import CALL_TAGS
from plural.types import Grammar, ToolCall, ToolSpec

_OPEN, _CLOSE = CALL_TAGS
# What function-calling data sets write where JSON Schema has another word, or none ("any").
_TYPES = {
    "dict": "object",
    "hashmap": "object",
    "float": "number",
    "double": "number",
    "int": "integer",
    "long": "integer",
    "bool": "boolean",
    "str": "string",
    "char": "string",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "none": "null",
    "any": None,
}
_KNOWN = frozenset({"object", "number", "integer", "boolean", "string", "array", "null"})
_SPACING = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}


# ----------------------------------------------------------------------------------------------------------- schemas
def normalise(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with every type name JSON Schema's own, at any depth. Raises GrammarError for an unknown one."""
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type":
            names = _type_names(value)
            if names is not None:
                made["type"] = names
        elif key in ("properties", "$defs", "definitions", "patternProperties"):
            made[key] = {name: _inner(inner) for name, inner in value.items()}
        elif key in ("items", "additionalProperties", "not"):
            made[key] = _inner(value)
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            made[key] = [_inner(inner) for inner in value]
        elif key == "required" and not isinstance(value, list | tuple):
            continue  # some data sets write `required: true` beside a property
        elif key not in ("default", "description", "title", "examples", "format", "optional"):
            made[key] = value
    return made


def _inner(schema: Any) -> Any:
    return normalise(schema) if isinstance(schema, Mapping) else schema


def _type_names(value: Any) -> str | list[str] | None:
    if isinstance(value, list | tuple):
        names = [_type_name(one) for one in value]
        return None if None in names else [name for name in names if name]
    return _type_name(value)


def _type_name(value: Any) -> str | None:
    name = str(value).lower()
    name = _TYPES.get(name, name) or ""
    if name and name not in _KNOWN:
        raise GrammarError(
            f"A tool's schema has the unknown type {value!r}.", hint=f"Types: {', '.join(sorted(_KNOWN))}."
        )
    return name or None


def parameters(tool: ToolSpec) -> dict[str, Any]:
    """The JSON Schema of the tool's arguments: an object that allows nothing it does not name."""
    schema = normalise(tool.parameters)
    if schema.get("type", "object") != "object":
        raise GrammarError(f"The parameters of tool {tool.name!r} are not an object.")
    return {"type": "object", "properties": {}, "additionalProperties": False} | schema


# ------------------------------------------------------------------------------------------------------- description
def describe(tools: Sequence[ToolSpec]) -> str:
    """The tools and how to call them, one line each and one for each argument that is described."""
    lines = ["You can call these functions:"]
    for tool in tools:
        schema = normalise_keeping_words(tool.parameters)
        needed = schema.get("required", [])
        arguments = schema.get("properties", {})
        listed = ", ".join(_argument(name, inner, name in needed) for name, inner in arguments.items())
        lines.append(f"{tool.name}({listed}): {_one_line(tool.description)}")
        for name, inner in arguments.items():
            if inner.get("description"):
                lines.append(f"  {name}: {_one_line(inner['description'])}")
    lines.append(f'To call, answer only {_OPEN}[{{"name": "...", "arguments": {{...}}}}]{_CLOSE}')
    return "\n".join(lines)


def normalise_keeping_words(schema: Mapping[str, Any]) -> dict[str, Any]:
    """`normalise`, with the descriptions and defaults of the top level's properties kept for people and models."""
    made = normalise(schema)
    for name, inner in schema.get("properties", {}).items():
        if isinstance(inner, Mapping):
            kept = {key: inner[key] for key in ("description", "default") if inner.get(key) is not None}
            made["properties"][name] = made["properties"][name] | kept
    return made


def _argument(name: str, schema: Mapping[str, Any], needed: bool) -> str:
    default = f" = {json.dumps(schema['default'], ensure_ascii=False)}" if "default" in schema else ""
    return f"{name}{'' if needed else '?'}: {_type_text(schema)}{default}"


def _type_text(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(_type_text(inner) for inner in schema[key])
    match schema.get("type"):
        case list() as several:
            return " | ".join(several)
        case "array":
            inner = _type_text(schema["items"]) if isinstance(schema.get("items"), Mapping) else "any"
            return f"({inner})[]" if "|" in inner else f"{inner}[]"
        case "object" if schema.get("properties"):
            needed = schema.get("required", [])
            parts = (_argument(name, inner, name in needed) for name, inner in schema["properties"].items())
            return f"{{{', '.join(parts)}}}"
        case None:
            return "any"
        case name:
            return str(name)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def as_openai(tool: ToolSpec) -> dict[str, Any]:
    """What templates with tools of their own expect."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


# ------------------------------------------------------------------------------------------------------------- calls
def write_calls(calls: Iterable[ToolCall]) -> str:
    """Calls as the model is to write them, for templates that do not write calls themselves."""
    written = [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]
    return f"{_OPEN}{json.dumps(written, ensure_ascii=False)}{_CLOSE}"


def grammar(
    tools: Sequence[ToolSpec], choice: str, *, parallel: bool, one_tag_each: bool, tags: Mapping[str, int]
) -> Grammar:
    """The Lark grammar (llguidance's dialect) of an answer that may, must or, with "none", must not call.

    `one_tag_each` is the form of Qwen's template: every call in tags and on a line of its own. `tags` are the visible
    tokens that look like `<this>`: llguidance matches such a token by its id only, never by its text.
    """
    plain = [i for tag, i in tags.items() if tag not in CALL_TAGS]
    if choice == "none":
        return Grammar("lark", "\n".join(["%llguidance {}", *_text(plain, "start")]))
    if choice not in ("auto", "required") and choice not in [tool.name for tool in tools]:
        raise GrammarError(f"No tool is called {choice!r}.", hint=f"Tools: {', '.join(t.name for t in tools)}.")
    allowed = [tool for tool in tools if choice in ("auto", "required", tool.name)]
    if not allowed:
        raise GrammarError("A call was asked for, but there are no tools.")
    begin, end = (f"<[{tags[tag]}]>" if tag in tags else _quote(tag) for tag in CALL_TAGS)
    if one_tag_each:
        one = f'{begin} "\\n" call "\\n" {end}'
        calls = f'{one} ("\\n" {one})*' if parallel else one
    else:
        more = ' (", " call)*' if parallel else ""
        calls = f'{begin} "[" call{more} "]" {end}'
    lines = ["%llguidance {}", f"calls: {calls}", f"call: {' | '.join(f'call_{i}' for i in range(len(allowed)))}"]
    lines += ["start: calls | text", *_text(plain, "text")] if choice == "auto" else ["start: calls"]
    for i, tool in enumerate(allowed):
        head = _quote(f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": ')
        lines.append(f'call_{i}: {head} arguments_{i} "}}"')
        lines.append(f"arguments_{i}: %json {json.dumps(parameters(tool) | _SPACING)}")
    return Grammar("lark", "\n".join(lines))


def _text(tags: Sequence[int], rule: str) -> list[str]:
    """Text that does not begin like a call, with any of the visible tokens `tags` in it."""
    tagged = f" (({' | '.join(f'<[{i}]>' for i in tags)}) REST)*" if tags else ""
    rest = ["REST: /(?s:.*)/"] if tags else []
    return [f"{rule}: TEXT{tagged}", f"TEXT: /(?s:.*)/ & ~/{_OPEN}(?s:.*)/", *rest]


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
