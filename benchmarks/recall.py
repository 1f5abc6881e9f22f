"""How well long-term memory finds a fact by a question in other words: 40 pairs (recall.txt), none of them trained on.

    python benchmarks/recall.py                    the base's hidden states, as they are and standardised; words

Printed is the share of questions whose fact is the first, or among the first 3 and 5, of the 40. `words` is a hashed
bag of words, without any model. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from plural.agents.memory import LongTerm, Standardised
from plural.engine import Engine
from plural.engine.chat import ChatPlural
from plural.models.base import load_base
from plural.protocols import Embedder
from plural.testing import ScriptedEmbedder
from plural.wiring.settings import STARTER

PAIRS = [line.split(" | ") for line in (Path(__file__).parent / "recall.txt").read_text().splitlines()]
FIRST = (1, 3, 5)


async def ranks(embedder: Embedder) -> list[int]:
    """Of every question, how many facts were held nearer than its own."""
    with tempfile.TemporaryDirectory() as folder:
        memory = LongTerm(Path(folder) / "memory.sqlite", embedder)
        for fact, _ in PAIRS:
            memory.remember(fact)
        found = []
        for fact, question in PAIRS:
            order = [each.memory.text for each in await memory.recall(question, len(PAIRS))]
            found.append(order.index(fact))
        return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    base = load_base()
    engine = Engine(base.decoder, base.tokenizer, {}.__getitem__)
    model = ChatPlural(engine=engine, base=base, model_name="base")
    general = (STARTER / "general.txt").read_text().splitlines()
    kinds: dict[str, Embedder] = {
        "hidden states": model,
        "standardised": Standardised(model, lambda: model.aembed(general)),
        "words": ScriptedEmbedder(4096),
    }
    table = {}
    print(f"{'':<16}" + "".join(f"{f'first {count}':>10}" for count in FIRST))
    for name, embedder in kinds.items():
        found = asyncio.run(ranks(embedder))
        table[name] = [sum(rank < count for rank in found) / len(found) for count in FIRST]
        print(f"{name:<16}" + "".join(f"{share:10.2f}" for share in table[name]))
    engine.close()
    print(json.dumps({"benchmark": "recall", "pairs": len(PAIRS), "first": FIRST, "share": table}))


if __name__ == "__main__":
    main()
