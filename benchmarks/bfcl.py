"""Tool calls on the Berkeley Function Calling Leaderboard, by its own checker: base and specialist, with grammar and
without.

    python benchmarks/bfcl.py                              every honest row of every category
    python benchmarks/bfcl.py --rows 100 --specialists toolcall other
    python benchmarks/bfcl.py --answers FILE               keep every answer, to read what went wrong

BFCL has no rows to train on, so the starter library's `toolcall` was trained on some of its categories, apart from the
tests by function name. An honest row is one that shares no function name and no question with what may be trained on;
these are not the leaderboard's scores. Right is a call that BFCL's `ast_checker` takes and, for `irrelevance`, no call
at all. Every arm sees one prompt; it is asked

    free       without a grammar: what is said is parsed, and what cannot be parsed is no call
    auto       under the grammar of text or calls, as tool_choice="auto"
    required   under the grammar of calls alone, as tool_choice="required" (none for irrelevance)

and all rows of an arm are in the engine at once. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage

from plural import Network, sync
from plural.engine.chat import ChatPlural
from plural.evals import interval
from plural.models.tokenizer import CALL_TAGS
from plural.models.tools import as_openai, describe

ROOT = Path(__file__).parents[1]
CATEGORIES = ("simple_python", "multiple", "parallel", "live_simple", "irrelevance")
WAYS = ("free", "auto", "required")
MAX_TOKENS = 160

Row = dict[str, Any]
Calls = list[dict[str, Any]]

_BLOCK = re.compile("{}.*?{}".format(*map(re.escape, CALL_TAGS)), re.DOTALL)


@dataclass(frozen=True)
class Arm:
    """Who is asked, and how."""

    who: str
    way: str
    model: ChatPlural


async def asked(arm: Arm, row: Row) -> tuple[Calls, str, int]:
    """(calls, what was said, tokens that were written) of one row."""
    if arm.way == "free":
        # These are the words in which the chat model describes tools, so the prompt is that of the other ways.
        said = await arm.model.ainvoke([SystemMessage(describe(row["tools"])), HumanMessage(row["question"])])
        blocks = [arm.model.base.chat.read_calls(block) for block in _BLOCK.findall(str(said.text))]
        drawn = [call for parsed, _, whole in blocks if whole for call in parsed]
        calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in drawn]
    else:
        tools = [as_openai(tool) for tool in row["tools"]]
        said = await arm.model.bind_tools(tools, tool_choice=arm.way).ainvoke(row["question"])
        calls = [{"name": call["name"], "arguments": call["args"]} for call in said.tool_calls]
    assert said.usage_metadata is not None  # the engine counts always
    return calls, str(said.text), said.usage_metadata["output_tokens"]


async def answered(arm: Arm, rows: Sequence[Row]) -> list[tuple[Calls, str, int]]:
    return list(await asyncio.gather(*(asked(arm, row) for row in rows)))


def rows_of(category: str, most: int | None, *, unread: bool) -> tuple[list[Row], int]:
    """(honest rows, at most so many, drawn with a fixed seed; how many rows the category has)."""
    import toolcall

    honest = (toolcall.unread_rows if unread else toolcall.honest_rows)(category)
    total = len(toolcall.test_rows(category))
    if most is not None and len(honest) > most:
        honest = random.Random(0).sample(honest, most)
    return honest, total


def measured(arm: Arm, category: str, rows: Sequence[Row], judge: Any) -> tuple[dict[str, Any], list[Row]]:
    """The arm's figures, and every answer."""
    started = time.perf_counter()
    answers = sync.run(answered(arm, rows))
    seconds = time.perf_counter() - started
    kept, right = [], []
    for row, (calls, text, _) in zip(rows, answers, strict=True):
        fine = not calls if category == "irrelevance" else judge(row["functions"], calls, row["truth"], category)
        right.append(float(fine))
        kept.append(
            {
                "category": category,
                "who": arm.who,
                "way": arm.way,
                "right": bool(fine),
                "question": row["question"],
                "tools": describe(row["tools"]),
                "calls": calls,
                "text": text,
                "truth": row["truth"],
            }
        )
    value, low, high = interval(right)
    tokens = sum(count for *_, count in answers) / len(answers)
    named = [calls for calls, _, _ in answers if calls]
    return {
        "rows": len(rows),
        "right": value,
        "low": low,
        "high": high,
        "called": len(named) / len(rows),
        "tokens": tokens,
        "seconds": seconds,
    }, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="of each category at most (all)")
    parser.add_argument(
        "--unread", action="store_true", help="only rows whose failures did not shape the training data"
    )
    parser.add_argument("--categories", nargs="+", choices=CATEGORIES, default=CATEGORIES)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--specialists", nargs="*", default=["toolcall"], help="names in the library")
    parser.add_argument("--library", type=Path, help="a library in the place of one's own")
    parser.add_argument("--without-base", action="store_true")
    parser.add_argument("--answers", type=Path, help="a file for every answer, as JSON lines")
    given = parser.parse_args()
    sys.path.append(str(ROOT / "recipes" / "starter"))
    import toolcall

    judge = toolcall.ast_judge()
    results: dict[str, dict[str, Any]] = {}
    with Network.open(library=given.library, max_tokens=MAX_TOKENS) as net:
        models = {} if given.without_base else {"base": net.model(None, "Answer by calling a function.")}
        models |= {name: net.specialist(name) for name in given.specialists}
        for category in given.categories:
            rows, total = rows_of(category, given.rows, unread=given.unread)
            print(f"\n{category}: {len(rows)} rows asked of {total}", flush=True)
            print(f"{'':32}{'right':>8}{'95%':>16}{'called':>9}{'tokens':>9}{'s a row':>9}")
            for who, model in models.items():
                for way in given.ways:
                    if category == "irrelevance" and way == "required":
                        continue
                    found, kept = measured(Arm(who, way, model), category, rows, judge)
                    results[f"{category}, {who}, {way}"] = found
                    spread = f"[{found['low']:.3f}, {found['high']:.3f}]"
                    print(
                        f"{who + ', ' + way:32}{found['right']:8.3f}{spread:>16}{found['called']:9.2f}"
                        f"{found['tokens']:9.1f}{found['seconds'] / len(rows):9.2f}",
                        flush=True,
                    )
                    if given.answers:
                        with given.answers.open("a") as file:
                            file.writelines(json.dumps(one) + "\n" for one in kept)
    print(json.dumps({"benchmark": "bfcl", "results": results}))


if __name__ == "__main__":
    main()
