"""Outputs under a grammar are valid by construction, or ended by their length."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plural.engine import Engine, Request
from plural.engine.grammar import GrammarCompiler, GrammarState, MasksAhead
from plural.errors import GrammarError, SettingsError
from plural.types import AdapterRef, Grammar, Sampling, TokenEvent

from .tiny import Shelf, collect, drive, text_of, tiny_adapter, tiny_engine, tiny_tokenizer

PROMPT = tuple(b"answer: ")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["ada", "bob"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "age", "ok"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    shelf = Shelf()
    shelf.adapters["a"] = tiny_adapter(1)
    return tiny_engine(shelf, start=False)


def request(grammar: Grammar, adapter: AdapterRef | None = None, **options: Any) -> Request:
    return Request(PROMPT, Sampling(**{"max_tokens": 60, **options}), adapter, grammar)


async def generate(engine: Engine, grammar: Grammar, **options: Any) -> list[TokenEvent]:
    [events] = await drive(engine, collect(engine, request(grammar, **options)))
    if isinstance(events, BaseException):
        raise events
    return events


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
async def test_json_is_valid_or_too_long(engine: Engine, seed: int) -> None:
    events = await generate(engine, Grammar.json_schema(SCHEMA), temperature=1.5, seed=seed)
    if events[-1].finish == "length":
        assert len(events) == 60
        return
    value = json.loads(text_of(events))
    assert value["name"] in ("ada", "bob")
    assert type(value["age"]) is int
    assert type(value["ok"]) is bool
    assert 0 <= value["age"] <= 150
    assert re.match(r'\{"name": ?"', text_of(events))


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_grammar_takes_compact_json_as_well_as_what_json_dumps_writes(separators: tuple[str, str]) -> None:
    tokenizer = tiny_tokenizer()
    state = GrammarCompiler(tokenizer).start(Grammar.json_schema(SCHEMA))
    for token in tokenizer.encode(json.dumps({"name": "bob", "age": 7, "ok": True}, separators=separators)):
        assert state.allowed()[token]
        state.accept(token)
    assert state.complete


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
async def test_forced_tokens_cost_no_forward_pass_and_change_nothing(engine: Engine, seed: int) -> None:
    """A vocabulary of bytes cuts a text in one way only, so that every token is the same with and without."""
    grammar, sampling = Grammar.json_schema(SCHEMA), {"temperature": 1.0, "seed": seed}
    every = await generate(engine, grammar, logprobs=1, **sampling)
    before = engine.stats()
    events = await generate(engine, grammar, **sampling)
    after = engine.stats()
    computed = [event for event in events if event.logprob != 0.0]
    assert len(computed) < len(events) - 10
    assert after.steps - before.steps == len(computed)
    assert [event.token_id for event in events] == [event.token_id for event in every]
    assert (text_of(events), events[-1].usage.completion) == (text_of(every), len(every))  # type: ignore[union-attr]
    engine.check()


TAKEN = [
    Grammar.json_schema(SCHEMA),
    Grammar.json_schema({"type": "array", "items": {"type": "string"}, "maxItems": 3}),
    Grammar.choices(["one", "two", "twelve"]),
    Grammar.regex("[a-c]{2,4}(x|yz)?"),
    Grammar("lark", 'start: "call " /[a-c]{3}/ "!" | /[^c]*/'),
]


@settings(max_examples=20, deadline=None)
@given(grammar=st.sampled_from(TAKEN), seed=st.integers(0, 10_000))
def test_a_token_is_taken_where_the_mask_allows_it(grammar: Grammar, seed: int) -> None:
    """Along a random path, of every token of the vocabulary."""
    compiler, chance, path = GrammarCompiler(tiny_tokenizer()), random.Random(seed), list[int]()
    for _ in range(8):
        state = compiler.start(grammar)
        for token in path:
            state.accept(token)
        allowed = state.allowed()
        for token in range(len(allowed)):
            if not allowed[token]:
                assert not state.takes(token)  # and it stays as it is
        assert (state.allowed() == allowed).all()
        possible = [int(token) for token in allowed.nonzero()[0]]
        ends = tiny_tokenizer().eos_ids
        if not set(possible) - ends:
            break
        path.append(chance.choice([token for token in possible if token not in ends]))
        assert state.takes(path[-1])


async def test_what_is_likeliest_among_the_allowed_is_drawn_with_a_mask_and_without(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammars = [Grammar.json_schema(SCHEMA), Grammar.regex("[a-z ]{30}"), Grammar.choices(NASTY)]
    quick = [await generate(engine, grammar) for grammar in grammars]
    monkeypatch.setattr(GrammarState, "takes", lambda *_: False)  # so that every token is found by its mask
    slow = [await generate(engine, grammar) for grammar in grammars]
    assert [text_of(events) for events in quick] == [text_of(events) for events in slow]


async def test_masks_of_a_step_are_found_in_one_call_beside_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of whoever draws by them: at random, and with log-probabilities; not of who takes the likeliest token."""
    rows: list[int] = []
    find, allowed = MasksAhead._find, GrammarState.allowed
    waited: list[bool] = []

    def counted(self: MasksAhead, matchers: Any, bits: Any) -> None:
        rows.append(len(matchers))
        find(self, matchers, bits)

    def watched(self: GrammarState) -> Any:
        waited.append(self._coming is not None)
        return allowed(self)

    monkeypatch.setattr(MasksAhead, "_find", counted)
    monkeypatch.setattr(GrammarState, "allowed", watched)
    pattern = Grammar.regex("[a-z]{12}")
    asked = [request(pattern, temperature=1.0, seed=n) for n in range(3)] + [request(pattern, logprobs=1)]
    together = await drive(engine, *(collect(engine, one) for one in asked))
    assert (sum(rows), max(rows)) == (48, 4)
    assert rows.count(4) >= 10  # three wait for the first one's prompt
    assert waited == [True] * 48
    rows.clear()
    await drive(engine, collect(engine, request(pattern)))
    assert rows == []
    monkeypatch.undo()
    monkeypatch.setattr(MasksAhead, "begin", lambda *_: None)
    alone = [(await drive(engine, collect(engine, one)))[0] for one in asked]
    assert [text_of(one) for one in together] == [text_of(one) for one in alone]


async def test_a_grammar_that_leaves_no_choice_computes_nothing(engine: Engine) -> None:
    before = engine.stats()
    events = await generate(engine, Grammar.choices(["only this"]))
    assert (text_of(events), events[-1].finish) == ("only this", "stop")
    events = await generate(engine, Grammar.choices(["only this"]), max_tokens=4)
    assert (text_of(events), events[-1].finish) == ("only", "length")
    assert engine.stats() == before


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "seed": 1}, {"ignore_eos": True}])
async def test_regex_and_lark(engine: Engine, options: dict[str, Any]) -> None:
    events = await generate(engine, Grammar.regex(r"[0-9]{2}:[0-5][0-9]"), **options)
    assert re.fullmatch(r"[0-9]{2}:[0-5][0-9]", text_of(events))
    assert events[-1].finish == "stop"
    events = await generate(engine, Grammar("lark", 'start: "call " /[a-c]{3}/ "!"'), **options)
    assert re.fullmatch(r"call [a-c]{3}!", text_of(events))


NASTY = ["a+b (c)", "tab\there", 'quo"te', "back\\slash", "x|y", "^$.*", "naïve ☃", "a", "ab"]


@pytest.mark.parametrize("option", NASTY)
async def test_a_choice_is_one_of_its_options_to_the_letter(engine: Engine, option: str) -> None:
    assert text_of(await generate(engine, Grammar.choices([option]))) == option
    assert text_of(await generate(engine, Grammar.choices(NASTY), temperature=3.0, seed=len(option))) in NASTY


async def test_grammars_and_free_requests_share_a_batch(engine: Engine) -> None:
    free = Request(PROMPT, Sampling(max_tokens=20, ignore_eos=True))
    grammar = Grammar.json_schema(SCHEMA)
    alone = (await drive(engine, collect(engine, free)), await drive(engine, collect(engine, request(grammar))))
    adapted = request(Grammar.choices(["yes", "no"]), AdapterRef("a"))
    together = await drive(engine, collect(engine, free), collect(engine, request(grammar)), collect(engine, adapted))
    assert [together[0]] == alone[0]
    for mixed, single in zip(together[:2], (alone[0][0], alone[1][0]), strict=True):
        assert not isinstance(mixed, BaseException)
        assert not isinstance(single, BaseException)
        assert [(e.token_id, e.logprob) for e in mixed] == [(e.token_id, e.logprob) for e in single]
    assert not isinstance(together[2], BaseException)
    assert text_of(together[2]) in ("yes", "no")


async def test_an_unfinished_output_says_length(engine: Engine) -> None:
    events = await generate(engine, Grammar.regex("[a-z]{50}"), max_tokens=10)
    assert (len(events), events[-1].finish) == (10, "length")


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.regex("(unclosed"),
        Grammar("json_schema", '{"type": "nonsense"}'),
        Grammar("json_schema", "not json"),
        Grammar("lark", "start: missing_rule"),
    ],
)
async def test_a_bad_grammar_is_named_before_anything_runs(engine: Engine, grammar: Grammar) -> None:
    before = engine.stats().submitted
    with pytest.raises(GrammarError, match=grammar.kind.split("_")[0] + "|JSON"):
        await generate(engine, grammar)
    assert engine.stats().submitted == before


async def test_a_grammar_decides_where_the_output_ends(engine: Engine) -> None:
    with pytest.raises(SettingsError, match="stop"):
        await generate(engine, Grammar.regex("a+"), stop=("b",))


async def test_the_real_tokenizer_fits_its_grammars(base: Any) -> None:
    engine = Engine(base.decoder, base.tokenizer, Shelf(), start=False)
    prompt = tuple(base.tokenizer.encode("A person as JSON: "))
    asked = [Grammar.json_schema(SCHEMA), Grammar.choices(NASTY), Grammar.regex(r"\d{3}-[A-F]+ ☃")]
    results = await drive(
        engine, *(collect(engine, Request(prompt, Sampling(max_tokens=40), None, one)) for one in asked)
    )
    shown = [text_of(events) for events in results if not isinstance(events, BaseException)]
    assert json.loads(shown[0])["name"] in ("ada", "bob")
    assert shown[1] in NASTY
    assert re.match(r"\d{3}-[A-F]", shown[2])


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.choices(["yes", "no \U000b1073"]),
        Grammar.choices(["yes", "no\x04"]),
        Grammar.choices(["yes", "no\ud800"]),
        Grammar.json_schema({"enum": [1, "a\U0008556d"]}),
        Grammar.json_schema({"type": "object", "properties": {"b\U0008556d": {"const": {"c": ["d"]}}}}),
        Grammar.json_schema({"anyOf": [{"const": {"c": ["\U0008556d"]}}, {"type": "null"}]}),
    ],
)
async def test_what_the_vocabulary_cannot_write_is_named_before_anything_runs(base: Any, grammar: Grammar) -> None:
    """Half-way through such a text there would be nothing left to draw, and the request failed then."""
    engine = Engine(base.decoder, base.tokenizer, Shelf(), start=False)
    with pytest.raises(GrammarError, match=r"U\+(B1073|0004|D800|8556D)\), which the base's vocabulary cannot write"):
        await collect(engine, Request((1, 2), Sampling(max_tokens=40), None, grammar))
    if grammar.kind == "choices":
        with pytest.raises(GrammarError, match="cannot write"):
            await engine.choose((1, 2), json.loads(grammar.source))
    assert engine.stats().submitted == 0


async def test_json_writes_control_characters_as_escapes(base: Any) -> None:
    engine = Engine(base.decoder, base.tokenizer, Shelf(), start=False)
    [events] = await drive(
        engine,
        collect(engine, Request((1, 2), Sampling(max_tokens=40), None, Grammar.json_schema({"const": "a\x04b"}))),
    )
    assert not isinstance(events, BaseException)
    assert json.loads(text_of(events)) == "a\x04b"
