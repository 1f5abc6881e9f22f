"""What the data of a skill is like: rows, tokens, an example, and what training and tests have in common.

python recipes/starter/listing.py               of every skill
python recipes/starter/listing.py home cron     of some
python recipes/starter/listing.py --form steps arith   taught to write its steps first
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

from skill import Row, Skill

from plural.models.base import load_base
from plural.models.tokenizer import Tokenizer
from plural.wiring.recipe import read_recipe


def asked(row: Row) -> str:
    return str(row["prompt"] if "prompt" in row else row["messages"][0]["content"])


def answered(row: Row) -> str:
    """What is learned or expected: the answer, or the calls."""
    if "prompt" in row:
        return str(row["answer"])
    message = row["messages"][1]
    return json.dumps(message["tool_calls"]) if message.get("tool_calls") else str(message["content"])


def overlap(train: Sequence[Row], test: Sequence[Row]) -> int:
    """Test prompts that are training prompts, but for case and white space."""
    known = {_plain(asked(row)) for row in train}
    return sum(_plain(asked(row)) in known for row in test)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def show(skills: Sequence[Skill], tokenizer: Tokenizer) -> None:
    """One block a skill. Tokens are of the content only: median / 95th percentile / most."""
    for skill in skills:
        train = skill.train_rows()
        tests = {skill.name: skill.test_rows(), **{name: rows() for name, rows in skill.more_tests.items()}}
        print(f"{skill.name}: {skill.purpose}")
        print(f"  train {_sizes(train, tokenizer)}")
        for name, rows in tests.items():
            print(f"  test {name} {_sizes(rows, tokenizer)}; {overlap(train, rows)} of them in train")
        for row in (train[len(train) // 3], tests[skill.name][0]):
            print(f"    {asked(row)!r}\n      {answered(row)!r}")


def _sizes(rows: Sequence[Row], tokenizer: Tokenizer) -> str:
    prompts, answers = (_lengths(rows, text, tokenizer) for text in (asked, answered))
    return f"{len(rows)} rows, prompt {prompts}, answer {answers} tokens"


def _lengths(rows: Sequence[Row], text: Callable[[Row], str], tokenizer: Tokenizer) -> str:
    lengths = sorted(len(tokenizer.encode(text(row))) for row in rows)
    return f"{lengths[len(lengths) // 2]}/{lengths[len(lengths) * 95 // 100]}/{lengths[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="skills; none is all")
    parser.add_argument("--form", help="how answers are taught: direct, steps or tool")
    given = parser.parse_args()
    show(read_recipe().chosen(given.names, given.form), load_base().tokenizer)


if __name__ == "__main__":
    main()
