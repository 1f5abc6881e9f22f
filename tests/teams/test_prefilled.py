"""A request that is routed and answered is computed once: the router reads what the answer's prompt begins with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from plural.agents import Agent
from plural.engine import Engine
from plural.engine.chat import ChatPlural
from plural.engine.reading import RequestReader
from plural.teams import Router, work
from plural.types import AdapterRef, Message, Routed, RunFinished, Sampling
from tests.engine.tiny import CONFIG, tiny_adapter, tiny_base

TOKENS = 5
REQUEST = "turn on the lamp in the kitchen"
EXAMPLES = {
    "cron": ["every monday at noon", "every day at seven", "each friday evening at six", "every hour at noon"],
    "home": ["turn on the kitchen light", "turn off the hall lamp", "dim the light in the bath", "light off now"],
    "base": ["who wrote faust", "what is a whale", "tell me a story", "why is the sky blue"],
}


@pytest.fixture
def model() -> Iterator[ChatPlural]:
    base = tiny_base(replace(CONFIG, max_positions=1024))
    adapters = {name: tiny_adapter(seed, config=base.config) for seed, name in enumerate(("cron", "home"))}
    engine = Engine(base.decoder, base.tokenizer, adapters.__getitem__)
    sampling = Sampling(max_tokens=TOKENS, ignore_eos=True)
    yield ChatPlural(engine=engine, base=base, model_name="base", sampling=sampling)
    engine.check()
    engine.close()


def agent(model: ChatPlural, name: str, *, activated: bool) -> Agent:
    if name == "base":
        return Agent(name, model)
    opening = {name: model.base.chat.invocation()} if activated else {}
    worn = {"adapter": AdapterRef(name), "invocations": opening, "model_name": name}
    return Agent(name, model.model_copy(update=worn))


async def computed(model: ChatPlural, who: str, *, activated: bool) -> tuple[int, int]:
    """How many tokens were computed for a request that `who` answered, and how many its prompt has."""
    reader = RequestReader(model.engine, model.base)
    router = Router.fit({label: await reader.aembed(texts) for label, texts in EXAMPLES.items()})
    router = replace(router, bias=np.array([1e6 * (label == who) for label in router.labels]))
    agents = {name: agent(model, name, activated=activated) for name in EXAMPLES}
    before = model.engine.stats().computed
    run = work(REQUEST, router=router, planners=[], agents=agents, embedder=reader)
    first, *_, last = [event async for event in run]
    assert isinstance(first, Routed)
    assert first.decision.value == who
    assert isinstance(last, RunFinished)
    return model.engine.stats().computed - before, last.usage.prompt


@pytest.mark.parametrize("who", EXAMPLES)
async def test_nothing_is_computed_twice(model: ChatPlural, who: str) -> None:
    tokens, prompt = await computed(model, who, activated=True)
    known = _template(model)  # which was read with the examples
    assert tokens == prompt - known + TOKENS - 1  # nobody reads the last token drawn


async def test_a_plain_adapter_reads_it_again(model: ChatPlural) -> None:
    tokens, prompt = await computed(model, "home", activated=False)
    assert tokens == prompt + TOKENS - 1 + len(RequestReader(model.engine, model.base).prompt(REQUEST)) - _template(
        model
    )


def _template(model: ChatPlural) -> int:
    """How many tokens stand before every request."""
    one, other = (model.base.chat.encode([Message("user", text)]) for text in "ab")
    return next(at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
