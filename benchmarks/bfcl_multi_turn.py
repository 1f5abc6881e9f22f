"""BFCL's multi_turn_base through the agent's loop: simulated APIs as tools, several user turns, judged by their state.

    python benchmarks/bfcl_multi_turn.py                       all 200 conversations
    python benchmarks/bfcl_multi_turn.py --episodes 40 --who toolcall

Every conversation is an Agent with the methods of BFCL's simulated APIs as its tools (file system, vehicle, trading,
travel, tickets, messages, posts, mathematics). The user's turns come one after another; in each the loop runs until the
model answers or has used up its steps. Right is what BFCL's own `multi_turn_checker` takes: after every turn the APIs'
state must be that of the reference, and what the reference's calls returned must have been returned. The sentence
about the API that BFCL repeats in each of its tools is left out of the descriptions. A conversation that no longer fits
into the base's context ends there. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.resources
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool

from plural import Network, sync
from plural.agents import Agent, Budget, Middleware
from plural.agents.middleware import Turn
from plural.engine.chat import ChatPlural
from plural.errors import LimitError, PromptError
from plural.evals import interval
from plural.types import Message, ToolReturned, ToolSpec

ROOT = Path(__file__).parents[1]
CATEGORY = "multi_turn_base"
MAX_TOKENS = 160

Row = dict[str, Any]


def episodes(count: int | None) -> list[Row]:
    """BFCL's conversations, at most so many, drawn with a fixed seed; each with its reference calls, `truth`."""
    folder = importlib.resources.files("bfcl_eval") / "data"
    name = f"BFCL_v4_{CATEGORY}.json"
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    lines = (folder / "possible_answer" / name).read_text().splitlines()
    truths = {row["id"]: row["ground_truth"] for row in map(json.loads, lines)}
    rows = [row | {"truth": truths[row["id"]]} for row in rows]
    return rows if count is None or count >= len(rows) else random.Random(0).sample(rows, count)


def specs_of(row: Row) -> list[ToolSpec]:
    """The methods of the APIs that a conversation is about."""
    from bfcl_eval.constants.executable_backend_config import MULTI_TURN_FUNC_DOC_FILE_MAPPING
    from toolcall import tool_of

    folder = importlib.resources.files("bfcl_eval") / "data" / "multi_turn_func_doc"
    left_out = set(row.get("excluded_function", ()))
    specs = []
    for api in sorted(row["involved_classes"]):
        for line in (folder / MULTI_TURN_FUNC_DOC_FILE_MAPPING[api]).read_text().splitlines():
            spec = tool_of(json.loads(line))
            if spec.name not in left_out:
                specs.append(replace(spec, description=spec.description.rpartition("Tool description:")[2].strip()))
    return specs


def written(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as BFCL executes it."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


@dataclass
class Recorder(Middleware):
    """The transcript of one conversation, and the calls of the turn under way, a list for each message."""

    messages: list[BaseMessage] = field(default_factory=list)
    steps: list[list[str]] = field(default_factory=list)

    async def after_model(self, turn: Turn, said: AIMessage) -> AIMessage:
        self.messages = [*turn.messages, said]
        if said.tool_calls:
            self.steps.append([written(call["name"], call["args"]) for call in said.tool_calls])
        return said


def tools_of(row: Row, who: str) -> list[BaseTool]:
    """Each acts on the APIs of this conversation and of this arm."""
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import execute_multi_turn_func_call

    def tool(spec: ToolSpec) -> BaseTool:
        async def act(**arguments: Any) -> str:
            call = written(spec.name, arguments)
            [result], _ = execute_multi_turn_func_call(
                [call], row["initial_config"], row["involved_classes"], who, row["id"]
            )
            return str(result)

        schema = {"type": "object", "properties": {}} | dict(spec.parameters)
        return StructuredTool(name=spec.name, description=spec.description, args_schema=schema, coroutine=act)

    return [tool(spec) for spec in specs_of(row)]


@dataclass(frozen=True)
class Played:
    """What came of one conversation. `ended` says why, if it was not carried through."""

    row: Row
    calls: list[list[list[str]]]
    ended: str
    tokens: int


async def played(row: Row, who: str, model: BaseChatModel, steps: int) -> Played:
    kept = Recorder()
    agent = Agent("clerk", model, tools=tools_of(row, who), budget=Budget(steps=steps), middleware=[kept])
    calls: list[list[list[str]]] = []
    ended = ""
    for turn in row["question"]:
        kept.steps = []
        if not ended:
            asked = [*kept.messages, *(HumanMessage(each["content"]) for each in turn)]
            try:
                async for event in agent.events(asked):
                    if isinstance(event, ToolReturned):
                        kept.messages.append(ToolMessage(event.result, tool_call_id=event.call.id))
            except LimitError as error:
                ended = "" if error.limit == "steps" else "in a circle"
            except PromptError:
                ended = "context full"
        calls.append(kept.steps)
    used = [said.usage_metadata for said in kept.messages if isinstance(said, AIMessage) and said.usage_metadata]
    return Played(row, calls, ended, sum(each["output_tokens"] for each in used))


async def all_played(rows: Sequence[Row], who: str, model: ChatPlural, steps: int, at_once: int) -> list[Played]:
    room = asyncio.Semaphore(at_once)

    async def one(row: Row) -> Played:
        async with room:
            return await played(row, who, model, steps)

    return list(await asyncio.gather(*map(one, rows)))


def judged(one: Played, who: str) -> tuple[bool, int, str]:
    """(whether BFCL's checker takes it, how many turns it took before one failed, why that failed)."""
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    turns = len(one.row["truth"])
    for upto in range(1, turns + 1):
        # The checker keeps the APIs by this name, and each prefix of the turns needs fresh ones.
        name = f"{who}_upto{upto}"
        found = multi_turn_checker(one.calls[:upto], one.row["truth"][:upto], one.row, CATEGORY, name)
        if not found["valid"]:
            return False, upto - 1, found["error_type"]
    return True, turns, ""


def around(row: Row, model: ChatPlural) -> int:
    """Tokens of a prompt with nothing but the tools."""
    return len(model.base.chat.encode([Message("user", "?")], specs_of(row), instructions=model.instructions))


def report(who: str, rows: Sequence[Played], seconds: float, model: ChatPlural) -> dict[str, Any]:
    verdicts = [judged(one, who) for one in rows]
    value, low, high = interval([float(fine) for fine, _, _ in verdicts])
    turns = sum(len(one.row["truth"]) for one in rows)
    made = [call for one in rows for turn in one.calls for step in turn for call in step]
    wanted = [call for one in rows for turn in one.row["truth"] for call in turn]
    sizes = [around(one.row, model) for one in rows]
    context = model.base.context
    by_apis: dict[int, list[float]] = defaultdict(list)
    for one, (fine, _, _) in zip(rows, verdicts, strict=True):
        by_apis[len(one.row["involved_classes"])].append(float(fine))
    found = {
        "episodes": len(rows),
        "right": value,
        "low": low,
        "high": high,
        "turns_before_the_first_failure": sum(upto for _, upto, _ in verdicts) / turns,
        "by_apis": {count: sum(each) / len(each) for count, each in sorted(by_apis.items())},
        "calls": len(made),
        "reference_calls": len(wanted),
        "fit": sum(one.ended != "context full" for one in rows),
        "tools_tokens": {"most": max(sizes), "mean": sum(sizes) / len(sizes)},
        "context": context,
        "ended": dict(Counter(one.ended for one in rows if one.ended)),
        "failures": dict(Counter(why for *_, why in verdicts if why)),
        "tokens": sum(one.tokens for one in rows) / len(rows),
        "seconds": seconds,
    }
    print(
        f"{who:16}{value:8.3f} [{low:.3f}, {high:.3f}]  turns {found['turns_before_the_first_failure']:.3f}  "
        f"calls {len(made)} (reference {len(wanted)})  fit {found['fit']}/{len(rows)}  "
        f"tools' tokens {sum(sizes) / len(sizes):.0f}, at most {max(sizes)} of {context}  {seconds:.0f} s",
        flush=True,
    )
    print(f"{'':16}{found['failures']} {found['ended'] or ''}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, help="so many, drawn with a fixed seed (all)")
    parser.add_argument("--steps", type=int, default=6, help="model calls in a user's turn")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--who", nargs="+", default=["base", "toolcall"], help="base, or names in the library")
    parser.add_argument("--answers", type=Path, help="a file for every conversation's calls, as JSON lines")
    given = parser.parse_args()
    sys.path.append(str(ROOT / "recipes" / "starter"))
    import toolcall

    toolcall.stub_models()
    rows = sorted(episodes(given.episodes), key=lambda row: sorted(row["involved_classes"]))
    results = {}
    with Network.open(max_tokens=MAX_TOKENS) as net:
        for who in given.who:
            model = net.model(None, "Answer by calling a function.") if who == "base" else net.specialist(who)
            started = time.perf_counter()
            done = sync.run(all_played(rows, who, model, given.steps, given.at_once))
            results[who] = report(who, done, time.perf_counter() - started, model)
            if given.answers:
                with given.answers.open("a") as file:
                    for one in done:
                        told = {"who": who, "id": one.row["id"], "calls": one.calls, "truth": one.row["truth"]}
                        file.write(json.dumps(told | {"ended": one.ended}) + "\n")
    print(json.dumps({"benchmark": "bfcl_multi_turn", "steps": given.steps, "results": results}))


if __name__ == "__main__":
    main()
