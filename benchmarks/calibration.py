"""Are decisions as probable as they say? Base and specialists of the starter library, before and after temperature
scaling.

    python benchmarks/calibration.py                     40 held-out rows of each skill
    python benchmarks/calibration.py --rows 200

Each held-out row is a decision among eight whole answers: the right one, and the seven right answers of other rows that
look most like it. Where a tool is called the answer is the call, as the model writes it, and the tools are shown. The
second expected calibration error (ten bins) is that after temperature scaling (Guo et al. 2017, arXiv 1706.04599): each
half of the rows is scaled by what the other half asks for. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plural import Network, sync
from plural.agents import adecide
from plural.agents.decisions import tempered
from plural.engine.chat import ChatPlural
from plural.evals import calibration_error, fit_temperature
from plural.models.tools import describe, write_calls
from plural.types import Decision, ToolCall, ToolSpec

ROOT = Path(__file__).parents[1]
SKILLS = ("home", "cron", "planner", "unchain", "exprs", "linear", "polyeval", "finalstep", "toolcall")
OPTIONS = 8


def plain(row: dict[str, Any]) -> tuple[str, str]:
    """What is asked, and the whole right answer as a model writes it."""
    if "prompt" in row:
        return row["prompt"], row["answer"]
    asked, said = row["messages"][:2]
    calls = [ToolCall("", call["name"], call["arguments"]) for call in said.get("tool_calls", ())]
    return asked["content"], write_calls(calls) if calls else said["content"]


def shown(model: ChatPlural, tools: Sequence[dict[str, Any]]) -> ChatPlural:
    """The model that reads what these tools are, in the words and at the place in which it is always told."""
    if not tools:
        return model
    described = describe([ToolSpec(**tool) for tool in tools])
    return model.model_copy(update={"instructions": f"{model.instructions}\n\n{described}"})


def questions(rows: Sequence[dict[str, Any]], count: int) -> list[tuple[str, list[str]]]:
    """(prompt, options) of `count` rows spread over all; the first option is right."""
    both = [plain(row) for row in rows]
    answers = sorted({answer for _, answer in both})
    made = []
    for asked, right in both[:: max(1, len(rows) // count)][:count]:
        others = [answer for answer in answers if answer != right]
        alike = difflib.SequenceMatcher(b=right, autojunk=False)

        def likeness(answer: str, alike: difflib.SequenceMatcher[str] = alike) -> float:
            alike.set_seq1(answer)
            return alike.quick_ratio()

        made.append((asked, [right, *sorted(others, key=likeness, reverse=True)[: OPTIONS - 1]]))
    return made


async def decided(model: ChatPlural, asked: Sequence[tuple[str, list[str]]]) -> list[Decision[str]]:
    return list(await asyncio.gather(*(adecide(model, prompt, options) for prompt, options in asked)))


def measured(decisions: Sequence[Decision[str]], right: Sequence[str]) -> dict[str, float]:
    """Before, and after each half was scaled by the temperature that the other half asks for."""
    places = [
        [option.value for option in decision.options].index(answer)
        for decision, answer in zip(decisions, right, strict=True)
    ]
    shares = [[option.probability for option in decision.options] for decision in decisions]
    hits = [place == 0 for place in places]
    scaled = [0.0] * len(decisions)
    for half in (0, 1):
        temperature = fit_temperature(shares[1 - half :: 2], places[1 - half :: 2])
        scaled[half::2] = [tempered(each, temperature).probability for each in decisions[half::2]]
    said = [decision.probability for decision in decisions]
    return {
        "rows": len(hits),
        "right": sum(hits) / len(hits),
        "said": sum(said) / len(said),
        "ece": calibration_error(said, hits),
        "temperature": fit_temperature(shares, places),
        "ece_scaled": calibration_error(scaled, hits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40, help="of each skill")
    parser.add_argument("--skills", nargs="+", choices=SKILLS, default=SKILLS)
    given = parser.parse_args()
    sys.path.append(str(ROOT / "recipes" / "starter"))
    from skills import SKILLS as RECIPES

    table: dict[str, dict[str, float]] = {}
    print(f"{'':21}{'rows':>6}{'right':>8}{'said':>8}{'ECE':>8}{'T':>8}{'ECE after':>11}")
    with Network.open() as net:
        for name in given.skills:
            rows = RECIPES[name].test_rows()
            asked, tools = questions(rows, given.rows), rows[0].get("tools", ())
            for who, model in {
                "base": net.model(None, RECIPES[name].asked_of_base),
                "specialist": net.specialist(name),
            }.items():
                row = measured(sync.run(decided(shown(model, tools), asked)), [options[0] for _, options in asked])
                table[f"{name}, {who}"] = row
                print(
                    f"{name + ', ' + who:21}{row['rows']:6}{row['right']:8.2f}{row['said']:8.2f}{row['ece']:8.3f}"
                    f"{row['temperature']:8.2f}{row['ece_scaled']:11.3f}",
                    flush=True,
                )
    print(json.dumps({"benchmark": "calibration", "options": OPTIONS, "results": table}))


if __name__ == "__main__":
    main()
