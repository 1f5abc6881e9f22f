"""A real vLLM (its CPU build, in an environment of its own: make peers) beside our engine, both in fp32."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage

from plural.engine.request import Request
from plural.errors import GrammarError, PluralError, SpecialistError
from plural.models.base import Base
from plural.remote import EngineAddress, RemoteEngine
from plural.remote.launch import Machine, find_vllm, launch
from plural.specialists import AdapterConfig, AdapterWeights, Card, Library, adapter_digest, write_adapter
from plural.types import AdapterRef, Grammar, Message, Sampling
from plural.wiring.engines import LibraryShelf, adapter_store
from plural.wiring.network import Network
from plural.wiring.settings import STARTER, Settings
from tests.serve.tiny import stage_specialist

try:
    find_vllm()
    HERE = True
except PluralError:
    HERE = False

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HERE, reason="vLLM is not installed: make peers")]

SLOTS, RANK = 2, 16
TOKENS = 40
# Logits of two machines that add in another order differ by less in fp32.
ROUNDING = 2e-3
PROMPTS = (
    "What is the capital of France, and what is it known for?",
    "Write one sentence about rain.",
    "every weekday at half past seven in the morning",
    "turn the kitchen lights on and dim them to 30 percent",
)


@pytest.fixture(scope="module")
def networks(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Network, Network]]:
    """The starter library on our engine, and the same on vLLM's."""
    home = tmp_path_factory.mktemp("vllm")
    settings = Settings(library=home / "library", cache=home / "cache", dtype="fp32")
    library = Library(settings.library, starter=[STARTER])
    for seed in range(3):
        name = f"random-{seed}"
        library.publish(stage_specialist(home / name, base, seed=seed, name=name), name=name, replace=False)
    with ExitStack() as after:
        ours = after.enter_context(Network.open(library=settings.library, cache=settings.cache, dtype="fp32"))
        machine = Machine(settings.cache, "fp32", 8, RANK)
        where = launch(base, EngineAddress(slots=SLOTS), machine, after, lambda _what: None)
        shelf = LibraryShelf(base, library, adapter_store(settings))
        engine = RemoteEngine(where, base, shelf, lambda: ours.engine)
        theirs = Network(base, library, engine, settings, lambda _what, _done: None)
        after.callback(theirs.close)
        yield ours, theirs


async def drawn(network: Network, request: Request) -> list[Any]:
    return [event async for event in network.engine.generate(request)]


def request(network: Network, text: str, ref: AdapterRef | None, **sampling: Any) -> Request:
    ids = network.base_model.chat.encode([Message("user", text)])
    return Request(tuple(ids), Sampling(**{"max_tokens": TOKENS} | sampling), ref)


async def test_greedy_tokens_are_ours_up_to_rounding(networks: tuple[Network, Network]) -> None:
    ours, theirs = networks
    whole = 0
    names = ("cron", "home", "random-0")
    worn = {"base": None} | {name: AdapterRef(theirs.library.get(name).digest) for name in names}
    for name, ref in worn.items():
        for text in PROMPTS:
            asked = request(ours, text, ref, logprobs=2)
            mine, other = await asyncio.gather(drawn(ours, asked), drawn(theirs, asked))
            ids, others = ([event.token_id for event in each] for each in (mine, other))
            at = next((i for i, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), None)
            if at is None:
                assert ids == others
                whole += 1
                print(f"{name}: {len(ids)} equal tokens")
                continue
            (first, best), (second, next_best) = mine[at].top_logprobs
            print(f"{name}: differs at token {at} of {len(ids)}: margin {best - next_best:.2e}")
            assert {ids[at], others[at]} == {first, second}
            assert best - next_best < ROUNDING
            for one, two in zip(mine[:at], other[:at], strict=True):
                assert one.logprob == pytest.approx(two.logprob, abs=ROUNDING)
    print(f"{whole} of {len(worn) * len(PROMPTS)} answers are equal to the end")
    assert whole >= 0.8 * len(worn) * len(PROMPTS)


async def test_slots(networks: tuple[Network, Network]) -> None:
    _, theirs = networks
    for number in (0, 1, 2, 0):
        ref = AdapterRef(theirs.library.get(f"random-{number}").digest)
        await drawn(theirs, request(theirs, "Hm", ref, max_tokens=1))
        assert len(theirs.engine.stats().adapters) <= SLOTS


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.json_schema(
            {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
                "required": ["city", "people"],
                "additionalProperties": False,
            }
        ),
        Grammar.regex("[A-Z][a-z]{2,8}"),
        Grammar.choices(["yes", "no", "perhaps"]),
        Grammar("lark", 'start: "The answer is " /[0-9]{2}/ "."'),
    ],
    ids=lambda grammar: grammar.kind,
)
async def test_grammars(networks: tuple[Network, Network], grammar: Grammar) -> None:
    texts = []
    for network in networks:
        asked = request(network, PROMPTS[0], None)
        events = await drawn(network, Request(asked.prompt, asked.sampling, None, grammar))
        assert events[-1].finish == "stop"
        texts.append("".join(event.text for event in events))
    assert texts[0] == texts[1]


async def test_choices_are_exact(networks: tuple[Network, Network]) -> None:
    asked = [HumanMessage("Is the sky blue?")]
    options = ["yes", "no", "it depends"]
    decisions = [await network.base.achoose(asked, options) for network in networks]
    for mine, other in zip(*(decision.options for decision in decisions), strict=True):
        assert mine.value == other.value
        assert mine.probability == pytest.approx(other.probability, abs=ROUNDING)


async def test_the_network_works_on_it(networks: tuple[Network, Network]) -> None:
    """Router, tools, contracts and all."""
    for text in PROMPTS[2:]:
        answers = [await network.aask(text) for network in networks]
        assert answers[0] == answers[1]
    sampled = [await network.base.asample([HumanMessage("Tell a joke.")], 2, temperature=1.0) for network in networks]
    assert all(len(one) == 2 and all(one) for one in sampled)
    mixed = [await network.mixed("cron:0.6+home:0.4").ainvoke([HumanMessage(PROMPTS[2])]) for network in networks]
    assert mixed[0].content == mixed[1].content


async def test_sampling_options(networks: tuple[Network, Network]) -> None:
    """It takes all of them; a seed is its own, and holds."""
    _, theirs = networks
    asked = request(
        theirs, PROMPTS[1], None, temperature=0.9, top_p=0.9, top_k=40, min_p=0.01, repetition_penalty=1.1,
        presence_penalty=0.1, frequency_penalty=0.1, seed=5, stop=(".",),
    )  # fmt: skip
    first, second = [[event.token_id for event in await drawn(theirs, asked)] for _ in range(2)]
    assert first == second
    events = await drawn(theirs, asked)
    assert "." not in "".join(event.text for event in events)
    assert events[-1].usage.completion == len(events)
    assert len(await drawn(theirs, request(theirs, "Hm", None, max_tokens=5, ignore_eos=True))) == 5
    assert await drawn(theirs, Request(asked.prompt, Sampling(max_tokens=2), priority=7))


async def test_what_it_refuses(networks: tuple[Network, Network], base: Base, tmp_path: Path) -> None:
    _, theirs = networks
    wide = AdapterConfig(2 * RANK, 2.0 * RANK, ("q_proj",))
    inputs, outputs = base.shape.modules["q_proj"]
    tensors = {
        (layer, "q_proj"): (np.ones((2 * RANK, inputs), np.float32), np.ones((outputs, 2 * RANK), np.float32))
        for layer in range(base.shape.num_layers)
    }
    write_adapter(tmp_path / "wide", AdapterWeights("", wide, tensors), base_name="tiny")
    card = Card(
        name="wide", digest=adapter_digest(tmp_path / "wide"), base=base.digest, base_name=base.name, purpose="Wide."
    )
    (tmp_path / "wide" / "specialist.json").write_text(card.to_json())
    one = theirs.library.publish(tmp_path / "wide", name="wide", replace=False)
    with pytest.raises(SpecialistError, match=r"rank.*--max-lora-rank"):
        await drawn(theirs, request(theirs, "Hm", AdapterRef(one.digest)))
    with pytest.raises(SpecialistError, match="is activated"):
        await drawn(theirs, request(theirs, "Hm", AdapterRef(theirs.library.get("random-0").digest, offset=4)))
    with pytest.raises(GrammarError, match="refuses: Grammar error"):
        await drawn(theirs, Request((1, 2), Sampling(), None, Grammar("lark", "start: (")))
