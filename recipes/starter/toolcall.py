"""Requests with tools: which call to make, what to say after its result, and when no tool fits.

The calls come from the Berkeley Function Calling Leaderboard's data (package `bfcl-eval`, Apache-2.0), the rest is made
here. BFCL has no training split, so the split is by function name: nothing is trained on that names a function of a
test row, and the scores are not leaderboard scores.

    trained on   live_simple, live_multiple, multiple, parallel, live_parallel: at most five tools, short prompts
    tested on    simple_python (400) and parallel_multiple (200); irrelevance is kept apart as well
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from general import PROMPTS
from skill import apart
from toolcall_forms import FORMS
from toolcall_words import MADE_UP, arithmetic, between_dates, next_runs

from plural.agents import tool_specs, toolbox
from plural.types import ToolSpec

Row = dict[str, Any]
Calls = list[dict[str, Any]]

NAME = "toolcall"
PURPOSE = "Answers a request by calling the tools that it is given, and says what came of it."
INSTRUCTIONS = "Use a tool if one fits."
TOOLS = ("calculate", "next_run", "days_between")
TRAINED_ON = ("live_simple", "live_multiple", "multiple", "parallel", "live_parallel")
TESTED_ON = ("simple_python", "parallel_multiple")
KEPT_APART = (*TESTED_ON, "irrelevance")
REFUSALS = ("None of my tools can do that.",)
_LONGEST_PROMPT = 300  # characters of a request
_LONGEST_TOOLS = 2200  # characters of the tools' JSON


# --------------------------------------------------------------------------------------------------------- BFCL's data
def bfcl(category: str) -> Iterator[Row]:
    """Rows of one category: `question`, `tools` (ToolSpec) and `truth`, for each call {name: {argument: [values]}}."""
    folder = importlib.resources.files("bfcl_eval") / "data"
    name = f"BFCL_v4_{category}.json"
    questions = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    truths = {}
    if (folder / "possible_answer" / name).is_file():
        lines = (folder / "possible_answer" / name).read_text().splitlines()
        truths = {row["id"]: row["ground_truth"] for row in map(json.loads, lines)}
    for row in questions:
        turn = row["question"][0]
        if len(turn) == 1:
            yield {
                "question": turn[0]["content"],
                "functions": row["function"],
                "tools": [tool_of(function) for function in row["function"]],
                "truth": truths.get(row["id"], []),
            }


_TYPES = {
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "list": "array",
    "int": "integer",
    "str": "string",
    "bool": "boolean",
}


def tool_of(function: Mapping[str, Any]) -> ToolSpec:
    """BFCL's Python type names become JSON Schema's."""
    return ToolSpec(
        function["name"],
        function["description"].removesuffix(" Note that the provided function is in Python 3 syntax."),
        _schema(function["parameters"]),
    )


def _schema(given: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in given.items():
        if key == "type":
            if value != "any":
                made["type"] = _TYPES.get(value, value)
        elif key == "properties":
            made["properties"] = {name: _schema(inner) for name, inner in value.items()}
        elif key == "items":
            made["items"] = _schema(value)
        elif key in ("description", "enum", "required", "default"):
            made[key] = value
    return made


def gold(truth: Sequence[Mapping[str, Any]], tools: Sequence[ToolSpec]) -> Calls:
    """One right answer: of each argument the first value that will do, in the order of the tool's schema."""
    orders = {tool.name: list(tool.parameters.get("properties", {})) for tool in tools}
    calls = []
    for call in truth:
        ((name, arguments),) = call.items()
        chosen = {key: _first(values) for key, values in arguments.items() if values and "" not in values}
        calls.append({"name": name, "arguments": {key: chosen[key] for key in orders[name] if key in chosen}})
    return calls


def _first(values: Sequence[Any]) -> Any:
    return _inside(values[0])


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        listed = {key: inner if isinstance(inner, list) else [inner] for key, inner in value.items()}
        return {key: _first(inner) for key, inner in listed.items() if inner and "" not in inner}
    if isinstance(value, list):
        return [_inside(one) for one in value]
    return value


Judge = Callable[[Sequence[Mapping[str, Any]], Calls, Sequence[Any], str], bool]


def stub_models() -> None:
    """Replaces the one module of BFCL's that needs every vendor's client by an empty one."""
    stub = types.ModuleType("bfcl_eval.constants.model_config")

    class Plain:
        underscore_to_dot = False

    stub.MODEL_CONFIG_MAPPING = {"local": Plain()}  # type: ignore[attr-defined]
    sys.modules["bfcl_eval.constants.model_config"] = stub


def ast_judge() -> Judge:
    """BFCL's own checker."""
    stub_models()
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def judge(functions: Sequence[Mapping[str, Any]], calls: Calls, truth: Sequence[Any], category: str) -> bool:
        try:
            made = [{call["name"]: call["arguments"]} for call in calls]
            return bool(ast_checker(functions, made, truth, Language.PYTHON, category, "local")["valid"])
        except (KeyError, TypeError, AttributeError, IndexError):
            return False  # a call of a shape that the checker does not expect

    return judge


def bfcl_judge(category: str) -> Callable[[int, str], bool]:
    """Whether BFCL's own checker, which knows every value that will do, takes an answer to the row of a number."""
    judge, rows = ast_judge(), test_rows(category)

    def takes(number: int, answer: str) -> bool:
        row = rows[number]
        try:
            calls = json.loads(answer)
        except json.JSONDecodeError:
            return False  # the model ran into its limit, or talked
        return judge(row["functions"], calls, row["truth"], category)

    return takes


def _names(row: Row) -> set[str]:
    return {tool.name for tool in row["tools"]}


def _bfcl_rows(chance: random.Random) -> list[Row]:
    untaught = {name for category in KEPT_APART for row in bfcl(category) for name in _names(row)}
    asked = {row["question"].strip().lower() for category in KEPT_APART for row in bfcl(category)}
    judge = ast_judge()
    rows = []
    for category in TRAINED_ON:
        for row in bfcl(category):
            calls = gold(row["truth"], row["tools"])
            size = len(json.dumps([tool.parameters for tool in row["tools"]]))
            seen = _names(row) & untaught or row["question"].strip().lower() in asked
            if seen or len(row["tools"]) > 5 or len(row["question"]) > _LONGEST_PROMPT or size > _LONGEST_TOOLS:
                continue
            if not judge(row["functions"], calls, row["truth"], category):
                continue
            rows.append(call_row(row["question"], row["tools"], calls))
            used = [tool for tool in row["tools"] if tool.name in {call["name"] for call in calls}]
            if len(used) < len(row["tools"]) and chance.random() < 0.5:
                rows.append(call_row(row["question"], used, calls))
    return rows


# -------------------------------------------------------------------------------------------------------------- rows
def call_row(question: str, tools: Sequence[ToolSpec], calls: Calls, result: str = "", answer: str = "") -> Row:
    """A request and its calls; with a result, also what is said after it."""
    messages: list[Row] = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    if result:
        messages += [{"role": "tool", "content": result}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "tools": [spec_fields(tool) for tool in tools]}


def spec_fields(tool: ToolSpec) -> Row:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters}


def own_tools() -> list[ToolSpec]:
    """The network's own tools, as the specialist is given them."""
    return list(tool_specs([toolbox.TOOLS[name] for name in TOOLS]))


def _own_rows(chance: random.Random, count: int) -> list[Row]:
    """Requests for the network's own tools, with true results."""
    own = own_tools()
    others = [ToolSpec(*kind.spec) for kind in MADE_UP]
    rows = []
    for make, share in ((arithmetic, 0.5), (next_runs, 0.3), (between_dates, 0.2)):
        for question, call, result, answer in make(chance, int(count * share)):
            tools = own
            if chance.random() < 0.2:
                tools = [tool for tool in own if tool.name == call["name"]]
            elif chance.random() < 0.15:
                tools = chance.sample([*own, chance.choice(others)], 4)
            rows.append(call_row(question, tools, [call], result, answer))
    return rows


def _made_up_rows(chance: random.Random, count: int) -> list[Row]:
    """Tools of many kinds with made-up results, so that copying a result is learnt and not the result."""
    rows = []
    for _ in range(count):
        kind = chance.choice(MADE_UP)
        question, arguments, result, answer = kind.draw(chance)
        others = chance.sample([other for other in MADE_UP if other is not kind], chance.choice([0, 0, 1, 2]))
        tools = [ToolSpec(*one.spec) for one in (kind, *others)]
        chance.shuffle(tools)
        rows.append(call_row(question, tools, [{"name": kind.spec[0], "arguments": arguments}], result, answer))
    return rows


def _formed_rows(chance: random.Random, count: int) -> list[Row]:
    """Requests whose values are said in another way than the call writes them, or say nothing of an argument."""
    rows = []
    for _ in range(count):
        form = chance.choice(FORMS)
        question, arguments = form.draw(chance)
        others = chance.sample([other for other in FORMS if other is not form], chance.choice([0, 0, 1, 2]))
        tools = [ToolSpec(*one.spec) for one in (form, *others)]
        chance.shuffle(tools)
        rows.append(call_row(question, tools, [{"name": form.name, "arguments": arguments}]))
    return rows


def _refused_rows(chance: random.Random, calling: Sequence[Row], count: int) -> list[Row]:
    """Requests that no given tool can answer: general ones, and ones whose tools were swapped for another row's."""
    own = [spec_fields(tool) for tool in own_tools()]
    rows = []
    for number in range(count):
        one, other = chance.sample(list(calling), 2)
        tools = own if number % 2 else other["tools"]
        if number % 4 < 2:
            question = chance.choice(PROMPTS)
        else:
            question = one["messages"][0]["content"]
            if {tool["name"] for tool in one["tools"]} & {tool["name"] for tool in tools}:
                continue
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": chance.choice(REFUSALS)}]
        rows.append({"messages": said, "tools": tools})
    return rows


@functools.cache
def train_rows() -> list[Row]:
    chance = random.Random(0)
    calling = _bfcl_rows(chance)
    rows = [*calling, *_own_rows(chance, 900), *_made_up_rows(chance, 500), *_refused_rows(chance, calling, 500)]
    rows += _formed_rows(chance, 900)
    chance.shuffle(rows)
    return rows


@functools.cache
def test_rows(category: str) -> list[Row]:
    """The whole category, with what its own checker needs: `functions`, `truth` and the row to ask."""
    return [
        row | {"row": call_row(row["question"], row["tools"], gold(row["truth"], row["tools"]))}
        for row in bfcl(category)
    ]


@functools.cache
def honest_rows(category: str) -> list[Row]:
    """The rows of a category that share no function name and no question with a training row."""
    trained = {tool["name"] for row in train_rows() for tool in row["tools"]}
    asked = {row["messages"][0]["content"].strip().lower() for row in train_rows()}
    return [
        row for row in test_rows(category) if not _names(row) & trained and row["question"].strip().lower() not in asked
    ]


def unread_rows(category: str) -> list[Row]:
    """The honest rows that nobody had read when `toolcall_forms` was written: its forms are those of failures on 200
    rows of simple_python, so a specialist that has learned them is scored on the others."""
    honest = honest_rows(category)
    read = random.Random(0).sample(honest, 200) if category == "simple_python" else []
    known = {row["question"] for row in read}
    return [row for row in honest if row["question"] not in known]


def own_test_rows(count: int = 60) -> list[Row]:
    """Held-out requests for the network's own tools, from a far seed; the call is what is scored."""
    trained = {row["messages"][0]["content"].lower() for row in train_rows()}
    rows = _own_rows(random.Random(10_000_000), count * 3)
    fresh = apart([row for row in rows if row["messages"][0]["content"].lower() not in trained], train_rows())
    random.Random(1).shuffle(fresh)
    own = [spec_fields(tool) for tool in own_tools()]
    return [{"messages": row["messages"][:2], "tools": own} for row in fresh[:count]]
