"""A group chat of specialists: tokens that the engine computes with activated members against plain LoRA members.

    python benchmarks/groupchat.py                          eight members, 40 turns of 96 tokens, on the embedded base
    python benchmarks/groupchat.py --members 4 --turns 20

Who speaks next is drawn, the same for both. Adapters are random, turns have a fixed length, and the prefix cache is on
for both: a plain member finds what it read itself, an activated one what anybody read, because before its turn begins
the base reads. What it writes itself is computed twice, as its turn and as everybody's transcript, so that short turns
gain less: with turns of 32 tokens it is 3.6 times. Tokens are counted, not timed; seconds are told beside them. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any

from adapters import random_adapter

from plural.agents import Agent
from plural.engine import Engine
from plural.engine.chat import ChatPlural
from plural.models.base import Base, load_base
from plural.teams import Team
from plural.teams.patterns import Finish, Next, Pattern, State
from plural.teams.patterns.state import say
from plural.types import AdapterRef, RunFinished, Sampling

TASK = "We want to repaint the hall of the school before the spring. Talk it over until we know what to do first."


def talk(names: Sequence[str], turns: int) -> Pattern:
    """Drawn speakers, nobody twice in a row."""
    chance, order = random.Random(0), [""]
    while len(order) <= turns:
        order.append(chance.choice([name for name in names if name != order[-1]]))

    def next_(state: State) -> Next:
        spoken = len(state.turns)
        return say(order[spoken + 1]) if spoken < turns else Finish("")

    return Pattern("drawn", next_, tuple(names))


def member(engine: Engine, base: Base, name: str, digest: str, tokens: int, *, activated: bool) -> Agent:
    model = ChatPlural(
        engine=engine,
        base=base,
        model_name=name,
        adapter=AdapterRef(digest),
        invocations={digest: base.chat.invocation()} if activated else {},
        sampling=Sampling(max_tokens=tokens, ignore_eos=True),
    )
    return Agent(name, model, instructions=f"You are {name}.", shared_first=True)


def chat(base: Base, adapters: Sequence[Any], turns: int, tokens: int, *, activated: bool) -> dict[str, Any]:
    """What one group chat costs: tokens computed, tokens that were read and written, seconds."""
    engine = Engine(base.decoder, base.tokenizer, {one.digest: one for one in adapters}.__getitem__)
    names = [f"member{number}" for number in range(1, len(adapters) + 1)]
    members = [
        member(engine, base, name, one.digest, tokens, activated=activated)
        for name, one in zip(names, adapters, strict=True)
    ]
    team = Team("group", members, talk(names, turns), max_turns=turns + 1)

    async def run() -> RunFinished:
        *_, last = [event async for event in team.events(TASK)]
        assert isinstance(last, RunFinished)
        return last

    began = time.perf_counter()
    finished = asyncio.run(run())
    seconds, computed = time.perf_counter() - began, engine.stats().computed
    engine.close()
    return {
        "computed": computed,
        "read": finished.usage.prompt,
        "written": finished.usage.completion,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=96, help="of one turn")
    parser.add_argument("--rank", type=int, default=4)
    given = parser.parse_args()
    base = load_base()
    adapters = [random_adapter(base.config, seed, given.rank) for seed in range(given.members)]
    found = {
        kind: chat(base, adapters, given.turns, given.tokens, activated=kind == "activated")
        for kind in ("plain", "activated")
    }
    print(f"{given.members} members, {given.turns} turns of {given.tokens} tokens")
    print(f"{'':10} {'computed':>9} {'read':>9} {'written':>8} {'seconds':>8}")
    for kind, one in found.items():
        print(f"{kind:10} {one['computed']:>9,} {one['read']:>9,} {one['written']:>8,} {one['seconds']:>8.1f}")
    fewer = found["plain"]["computed"] / found["activated"]["computed"]
    print(f"activated members have the engine compute {fewer:.2f} times fewer tokens")
    print(json.dumps({"fewer": round(fewer, 3), **found}))


if __name__ == "__main__":
    main()
