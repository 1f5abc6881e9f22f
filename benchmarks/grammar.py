"""What grammars and decisions cost: decode under a schema beside free decode of as many tokens.

    python benchmarks/grammar.py                     16 streams of the real base, three grammars, and decisions
    python benchmarks/grammar.py --streams 1 16 --rounds 5

`every` draws each token from its logits under a mask; `schema` is how requests run: tokens that the grammar forces are
taken without one, and read by the next pass. `free` draws as many tokens as the schema's answers have. `drawn` is
`schema` at a temperature, and is held against free tokens drawn at that temperature. Prompts are in the prefix cache,
and the first step of a run, which reads what is left of them, is not counted. A step's own time is what it spends
outside the forward pass, on the engine's thread; the overhead is the own time under the grammar less that of free
decode, for each token, as a share of a free token's decode time. All times are that thread's CPU time, of which other
work on the same cores takes nothing; the masks that another thread finds beside the forward pass are not in it. Runs
take turns. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from plural import sync
from plural.engine import Engine, EngineSettings, Request
from plural.engine.grammar import GrammarState
from plural.engine.runner import Runner
from plural.models.base import Base, load_base
from plural.types import Grammar, Message, Sampling, TokenEvent, ToolSpec

GOAL = 0.05
PLACES = ("kitchen", "cellar", "attic", "garden", "garage", "hall", "nursery", "study")
OPTIONS = ("turn on the light", "turn off the light", "open the door", "close the door", "wait", "look around")
ORDER = {
    "type": "object",
    "properties": {
        "place": {"enum": list(PLACES)},
        "device": {"enum": ["light", "fan", "heater", "blinds"]},
        "on": {"type": "boolean"},
        "percent": {"type": "integer", "minimum": 0, "maximum": 100},
    },
    "required": ["place", "device", "on", "percent"],
    "additionalProperties": False,
}
LETTER = {
    "type": "object",
    "properties": {
        "to": {"type": "string", "maxLength": 40},
        "subject": {"type": "string", "maxLength": 60},
        "lines": {"type": "array", "items": {"type": "string", "maxLength": 80}, "minItems": 2, "maxItems": 4},
    },
    "required": ["to", "subject", "lines"],
    "additionalProperties": False,
}
TOOLS = (
    ToolSpec("set_device", "Sets a device.", ORDER),
    ToolSpec("write_letter", "Writes a letter.", LETTER),
    ToolSpec("weather", "Tells the weather.", {"type": "object", "properties": {"city": {"type": "string"}}}),
)


@dataclass
class Clock:
    """CPU seconds of the calling thread, and calls, by name, while it is on; those of the first step only if it
    `counts`."""

    counts: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @contextmanager
    def on(self, *watched: tuple[type, str]) -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name in watched:
                plain = getattr(owner, name)
                setattr(owner, name, self._timed(plain, name))
                stack.callback(setattr, owner, name, plain)
            yield

    def _timed(self, plain: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            begun = time.thread_time()
            try:
                return plain(*args, **options)
            finally:
                self.seconds[name] += time.thread_time() - begun
                self.calls[name] += 1
                if name == "step" and self.calls[name] == 1 and not self.counts:
                    self.seconds.clear()  # it read what was left of the prompts

        return timed


@dataclass(frozen=True)
class Run:
    """Of one run: seconds in steps, in forward passes and in each part of the grammar; tokens and steps."""

    step: float
    run: float
    parts: dict[str, float]
    tokens: int
    steps: int

    @property
    def own(self) -> float:
        """Seconds a token outside the forward pass."""
        return (self.step - self.run) / self.tokens


WATCHED = (
    (Engine, "step"),
    (Runner, "run"),
    (GrammarState, "allowed"),
    (GrammarState, "accept"),
    (GrammarState, "forced"),
)


async def _tokens(engine: Engine, request: Request) -> list[TokenEvent]:
    return [event async for event in engine.generate(request)]


def _settle(engine: Engine) -> None:
    """Answers are handed out inside the last step: it is to be counted, too."""
    engine.check()
    time.sleep(0.01)


def timed(engine: Engine, requests: Sequence[Request]) -> tuple[Run, list[int]]:
    """All requests at once, their prompts read before; and how many tokens each answer has."""

    async def ask(asked: Sequence[Request]) -> list[list[TokenEvent]]:
        return list(await asyncio.gather(*(_tokens(engine, request) for request in asked)))

    sync.run(ask([replace(one, grammar=None, sampling=Sampling(max_tokens=1)) for one in requests]))
    clock = Clock()
    with clock.on(*WATCHED):
        lengths = [len(events) for events in sync.run(ask(requests))]
        _settle(engine)
    parts = {name: clock.seconds[name] for name in ("allowed", "accept", "forced")}
    return Run(clock.seconds["step"], clock.seconds["run"], parts, sum(lengths), clock.calls["step"]), lengths


def decided(engine: Engine, prompts: Sequence[Sequence[int]]) -> Run:
    """A decision for each prompt, all at once."""

    async def ask() -> None:
        await asyncio.gather(*(engine.choose(prompt, OPTIONS) for prompt in prompts))

    sync.run(ask())
    clock = Clock(counts=True)  # prompts are in the cache, and all of a decision may be one step
    with clock.on(*WATCHED):
        sync.run(ask())
        _settle(engine)
    return Run(clock.seconds["step"], clock.seconds["run"], {}, len(prompts), clock.calls["step"])


def prompts_of(base: Base, streams: int) -> list[tuple[int, ...]]:
    asked = [
        f"It is {7 + n % 12} o'clock and somebody is in the {PLACES[n % len(PLACES)]}. Say what to do."
        for n in range(streams)
    ]
    return [tuple(base.chat.encode([Message("user", text)])) for text in asked]


def compared(engine: Engine, grammar: Grammar, prompts: Sequence[tuple[int, ...]], rounds: int) -> dict[str, Any]:
    runs: dict[str, list[Run]] = defaultdict(list)
    likeliest, drawn = Sampling(max_tokens=96), Sampling(max_tokens=96, temperature=0.7, seed=1)
    for _ in range(rounds):
        for kind, plain, sampling in (
            ("schema", "free", likeliest),
            ("every", "", replace(likeliest, logprobs=1)),
            ("drawn", "free drawn", drawn),
        ):
            run, lengths = timed(engine, [Request(prompt, sampling, None, grammar) for prompt in prompts])
            runs[kind].append(run)
            if plain:
                free = [
                    Request(prompt, replace(sampling, max_tokens=length, ignore_eos=True))
                    for prompt, length in zip(prompts, lengths, strict=True)
                ]
                runs[plain].append(timed(engine, free)[0])
    beside = {"drawn": "free drawn", "free drawn": "free drawn"}
    return {kind: summary(each, runs[beside.get(kind, "free")]) for kind, each in runs.items()}


def summary(runs: Sequence[Run], free: Sequence[Run]) -> dict[str, Any]:
    """Medians of rounds."""

    def middle(value: Callable[[Run], float], of: Sequence[Run]) -> float:
        return statistics.median(map(value, of))

    own, plain = middle(lambda run: run.own, runs), middle(lambda run: run.own, free)
    decode = middle(lambda run: run.step / run.tokens, free)
    return {
        "tokens": runs[0].tokens,
        "steps": runs[0].steps,
        "ms_a_token": 1e3 * middle(lambda run: run.step / run.tokens, runs),
        "own_us_a_token": 1e6 * own,
        "parts_us_a_token": {
            name: 1e6 * middle(lambda run, name=name: run.parts[name] / run.tokens, runs)  # type: ignore[misc]
            for name in runs[0].parts
        },
        "overhead": (own - plain) / decode,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[16])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    base = load_base()
    grammars = {
        "few values": Grammar.json_schema(ORDER),
        "texts": Grammar.json_schema(LETTER),
        "tool call": base.chat.tool_grammar(TOOLS, "required"),
    }
    table: dict[str, Any] = {}
    engine = Engine(
        base.decoder, base.tokenizer, lambda digest: (_ for _ in ()).throw(KeyError(digest)), EngineSettings()
    )
    try:
        print(f"{'':34}{'tokens':>8}{'steps':>7}{'ms a token':>12}{'own us':>9}{'mask us':>9}{'overhead':>10}")
        for streams in given.streams:
            prompts = prompts_of(base, streams)
            for name, grammar in grammars.items():
                for kind, row in compared(engine, grammar, prompts, given.rounds).items():
                    table[f"{streams} streams, {name}, {kind}"] = row
                    print(
                        f"{f'{streams}, {name}, {kind}':34}{row['tokens']:8}{row['steps']:7}{row['ms_a_token']:12.2f}"
                        f"{row['own_us_a_token']:9.0f}{row['parts_us_a_token']['allowed']:9.0f}{row['overhead']:10.1%}",
                        flush=True,
                    )
            runs = [decided(engine, prompts) for _ in range(given.rounds)]
            share = statistics.median((run.step - run.run) / run.step for run in runs)
            table[f"{streams} decisions"] = {"options": len(OPTIONS), "steps": runs[0].steps, "overhead": share}
            print(f"{f'{streams} decisions':34}{'':8}{runs[0].steps:7}{'':30}{share:10.1%}", flush=True)
    finally:
        engine.close()
    print(json.dumps({"benchmark": "grammar", "goal": GOAL, "results": table}))


if __name__ == "__main__":
    main()
