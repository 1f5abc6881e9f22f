"""Ten thousand decisions: whatever the schema, the choice or the tool, none is malformed.

By a base that knows nothing, whose weights are random, so that nothing but the grammar gives its answers their form;
and by the real base and specialists of the starter library. What has no end within its tokens is cut off, is said to
be, and is nobody's answer; it is counted apart.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from langchain_core.utils.function_calling import convert_to_openai_tool

from plural import sync
from plural.agents import Contract
from plural.agents.schema import violations
from plural.engine import Engine, EngineSettings
from plural.engine.chat import ChatPlural
from plural.teams.planner import plan_schema
from plural.types import Grammar, Sampling
from plural.wiring.network import Network

from .tiny import CONFIG, tiny_base

PLAN = plan_schema(letters=16)  # a base that knows nothing would write its tasks to their ends
SEEDS = itertools.count()
TOTAL = int(os.environ.get("PLURAL_DECISIONS", "10000"))  # of the real ones together

PATTERNS = [r"^[a-f]{2,6}$", r"^\d{4}-\d{2}$", "^(on|off)$"]
names = st.text(st.characters(codec="ascii", categories=["L", "Nd"], include_characters="_-"), min_size=1, max_size=8)
# What SmolLM2 has tokens for: nothing from U+40000 to U+BFFFF, and of control characters only what JSON escapes.
letters = st.characters(exclude_categories=["Cs"], max_codepoint=0x3FFFF) | st.characters(min_codepoint=0xC0000)
texts = st.text(letters, min_size=1, max_size=12)
words = texts.filter(lambda text: not any(unicodedata.category(letter) == "Cc" for letter in text))
scalars = st.none() | st.booleans() | st.integers(-999, 999) | texts


@st.composite
def integers(draw: Any) -> dict[str, Any]:
    least = draw(st.integers(-(10**6), 10**6))
    return {"type": "integer", "minimum": least, "maximum": least + draw(st.integers(0, 10**4))}


@st.composite
def numbers(draw: Any) -> dict[str, Any]:
    least = draw(st.integers(-1000, 1000))
    return {"type": "number", "minimum": least, "maximum": least + draw(st.integers(1, 100))}


@st.composite
def strings(draw: Any) -> dict[str, Any]:
    least = draw(st.integers(0, 4))
    return {"type": "string", "minLength": least, "maxLength": least + draw(st.integers(0, 8))}


leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda values: {"enum": values}, st.lists(scalars, min_size=1, max_size=4)),
    st.builds(lambda value: {"const": value}, scalars),
    st.builds(lambda pattern: {"type": "string", "pattern": pattern}, st.sampled_from(PATTERNS)),
    integers(),
    numbers(),
    strings(),
)


@st.composite
def arrays(draw: Any, below: Any) -> dict[str, Any]:
    least = draw(st.integers(0, 2))
    return {"type": "array", "items": draw(below), "minItems": least, "maxItems": least + draw(st.integers(0, 2))}


@st.composite
def objects(draw: Any, below: Any) -> dict[str, Any]:
    properties = draw(st.dictionaries(names, below, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def alternatives(below: Any) -> Any:
    return st.builds(lambda forms: {"anyOf": forms}, st.lists(below, min_size=1, max_size=3))


schemas = st.recursive(
    leaves, lambda below: st.one_of(arrays(below), objects(below), alternatives(below)), max_leaves=6
)


@st.composite
def toolboxes(draw: Any) -> list[dict[str, Any]]:
    named = names.filter(lambda name: name not in ("auto", "any", "required", "none"))  # words of tool_choice
    called = draw(st.lists(named, min_size=1, max_size=3, unique=True))
    return [
        {"type": "function", "function": {"name": name, "description": "Does it.", "parameters": draw(objects(leaves))}}
        for name in called
    ]


def function(name: str, description: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:2]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TEXT: dict[str, Any] = {"type": "string"}
TOOLS = [  # as people write them: nothing says where a text ends
    function("send_mail", "Send a mail.", to=TEXT, subject=TEXT, body=TEXT, copies={"type": "array", "items": TEXT}),
    function("search", "Search the web.", query=TEXT, limit={"type": "integer"}),
    function("add_event", "Add an event to the calendar.", title=TEXT, start={**TEXT, "format": "date-time"}),
    function("set_heating", "Set the heating.", room={"enum": ["hall", "kitchen"]}, degrees={"type": "number"}),
]


# --------------------------------------------------------------------------------------------------------- who decides
@dataclass(frozen=True)
class Who:
    """`asked` are its prompts, which take turns. Of one example it gets so many `forms`, and makes so many answers in
    `each`: all of them are one batch of the engine. `roomy` is how many tokens are enough for any bounded value; 0:
    it never has so many, but `brief`."""

    model: ChatPlural
    asked: Iterator[str]
    forms: int
    each: int
    roomy: int
    brief: int

    def batch(self, forms: Sequence[Any]) -> list[Any]:
        return [form for form in forms for _ in range(self.each)]


@pytest.fixture(scope="module")
def novice() -> Iterator[Who]:
    small = tiny_base(replace(CONFIG, max_positions=4096))
    engine = Engine(small.decoder, small.tokenizer, {}.__getitem__, EngineSettings(max_running=24))
    model = ChatPlural(engine=engine, base=small, model_name="tiny", temperature=1.0)
    yield Who(model, itertools.repeat("Decide."), forms=6, each=4, roomy=2048, brief=120)
    engine.check()
    engine.close()


@pytest.fixture(scope="module")
def network(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network.open(library=tmp_path_factory.mktemp("library")) as network:
        yield network
        network.engine.check()


REAL = ("base", "home", "cron", "toolcall", "planner")


@pytest.fixture
def learned(network: Network, request: pytest.FixtureRequest) -> Who:
    """Without its own contract: what it has to keep to is asked of it."""
    name: str = request.param
    cards = [network.library.get(one).card for one in REAL[1:] if name in ("base", one)]
    asked = [text for card in cards for text in card.examples]
    model = network.base if name == "base" else network.specialist(name)
    free = model.model_copy(update={"grammar": None, "sampling": Sampling(temperature=1.0)})
    return Who(free, itertools.cycle(asked), forms=6, each=8, roomy=0, brief=48)


def answers(who: Who, asked: list[dict[str, Any]]) -> list[Any]:
    """One message for each way of asking, every one with a seed of its own."""

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(who.model.ainvoke(next(who.asked), seed=next(SEEDS), **how) for how in asked))

    return sync.run(all_at_once())


# ----------------------------------------------------------------------------------------------------- what is decided
def whole(message: Any) -> bool:
    return bool(message.response_metadata["finish_reason"] != "length")


def read_value(who: Who, forms: list[dict[str, Any]]) -> Counter[str]:
    asked = who.batch(forms)
    tokens = who.roomy or who.brief
    said = answers(who, [{"grammar": Grammar.json_schema(form), "max_tokens": tokens} for form in asked])
    counted: Counter[str] = Counter()
    for form, message in zip(asked, said, strict=True):
        if not whole(message) and not who.roomy:
            counted["cut off"] += 1
            continue
        assert whole(message)
        assert violations(json.loads(message.text), form) == []
        counted["whole"] += 1
    return counted


def read_choice(who: Who, lists: list[list[str]]) -> Counter[str]:
    asked = who.batch(lists)
    said = answers(who, [{"grammar": Grammar.choices(options), "max_tokens": 64} for options in asked])
    for options, message in zip(asked, said, strict=True):
        assert whole(message)
        assert message.text in options
    for options in lists:
        decision = sync.run(who.model.achoose(next(who.asked), options))
        assert decision.value in options
        assert sum(option.probability for option in decision.options) == pytest.approx(1)
    return Counter(whole=len(said) + len(lists))


def read_calls(who: Who, boxes: list[list[dict[str, Any]]]) -> Counter[str]:
    """Tools that hypothesis makes: their arguments have an end."""
    return called(who, boxes, who.roomy or who.brief)


def read_open_calls(who: Who, boxes: list[list[dict[str, Any]]]) -> Counter[str]:
    return called(who, boxes, who.brief)


def called(who: Who, boxes: list[list[dict[str, Any]]], tokens: int) -> Counter[str]:
    ways = itertools.cycle(["required", "auto", "one", "required"])
    asked = [(box, next(ways)) for box in who.batch(boxes)]
    options = [
        {
            "tools": box,
            "tool_choice": box[0]["function"]["name"] if how == "one" else how,
            "parallel_tool_calls": False,
            # Left to itself a base that knows nothing would write text for ever.
            "max_tokens": who.brief if how == "auto" else tokens,
        }
        for box, how in asked
    ]
    counted: Counter[str] = Counter()
    for (box, how), message in zip(asked, answers(who, options), strict=True):
        parameters = {each["function"]["name"]: each["function"]["parameters"] for each in box}
        for call in message.tool_calls:
            assert how != "one" or call["name"] == box[0]["function"]["name"]
            assert violations(call["args"], parameters[call["name"]]) == []
        assert not message.text.startswith("<tool_call>")
        assert not (message.tool_calls or message.invalid_tool_calls) or message.text == ""
        if message.invalid_tool_calls:
            assert not whole(message)
            assert tokens == who.brief or how == "auto"
            assert all("was cut off after" in str(call["error"]) for call in message.invalid_tool_calls)
            counted["cut off"] += 1
        elif message.tool_calls:
            assert len(message.tool_calls) == 1
            counted["whole"] += 1
        else:
            assert how == "auto"
            # Real ones may quote the tag within what they say.
            assert not who.roomy or not whole(message) or "<tool_call>" not in message.text
            counted["text"] += 1
    return counted


toolkits = st.lists(st.sampled_from(TOOLS), min_size=1, max_size=3, unique_by=lambda each: each["function"]["name"])
KINDS = {
    "values": (read_value, schemas | st.just(PLAN)),
    "choices": (read_choice, st.lists(words, min_size=1, max_size=6, unique=True)),
    "calls": (read_calls, toolboxes()),
    "open calls": (read_open_calls, toolkits),
}


def decide(who: Who, kind: str, least: int) -> Counter[str]:
    """How many decisions were made, `least` or more."""
    read, form = KINDS[kind]
    counted: Counter[str] = Counter()
    forms = st.lists(form, min_size=who.forms, max_size=who.forms)
    examples = math.ceil(least / (who.forms * who.each))

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(drawn=forms)
    def any_of_them(drawn: Any) -> None:
        counted.update(read(who, drawn))

    any_of_them()
    assert counted.total() >= least
    return counted


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_hundred(novice: Who, kind: str) -> None:
    counted = decide(novice, kind, 120)
    assert counted["whole"] > 0
    assert counted["cut off"] or kind != "open calls"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_by_who_knows_nothing(novice: Who, kind: str) -> None:
    decide(novice, kind, 10_000 // len(KINDS))


@pytest.mark.slow
@pytest.mark.parametrize("learned", REAL, indirect=True)
@pytest.mark.parametrize("kind", [*KINDS, "own"])
def test_ten_thousand_by_the_base_and_specialists(learned: Who, kind: str, network: Network) -> None:
    """`-s` shows how many of each kind were whole, and cut off."""
    least = math.ceil(TOTAL / len(REAL) / (len(KINDS) + 1))
    counted = read_own(learned, network, least) if kind == "own" else decide(learned, kind, least)
    print(f"{learned.model.model_name}, {kind}: {dict(counted)}")


def read_own(who: Who, network: Network, least: int) -> Counter[str]:
    """What it was made for: its own contract or tools, on prompts of its own. The base has all of them in turn."""
    counted: Counter[str] = Counter()
    name = who.model.model_name
    cards = [network.library.get(one).card for one in REAL[1:] if name in ("base", one)]
    for number in range(math.ceil(least / (who.forms * who.each))):
        card = cards[number % len(cards)]
        if card.output is None:
            tools = [convert_to_openai_tool(network.tools[tool]) for tool in card.tools]
            counted += called(who, [tools] * who.forms, who.brief)
            continue
        contract = Contract(card.output.kind, card.output.source)
        for message in answers(who, [{"grammar": contract.grammar, "max_tokens": who.brief}] * who.forms * who.each):
            if whole(message):
                contract.parse(message.text)
            counted["whole" if whole(message) else "cut off"] += 1
    return counted
