"""How tokens are drawn, and where an output ends."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plural.engine import Engine, Request
from plural.engine.kernels.torch_kernels import summed_up
from plural.engine.request import GenerateJob
from plural.engine.sampler import draw
from plural.engine.text import TextStream
from plural.errors import SettingsError
from plural.models.tokenizer import Detokenizer
from plural.types import Sampling, TokenEvent

from .tiny import Shelf, bit_equal, collect, drawn, drive, text_of, tiny_decoder, tiny_engine, tiny_tokenizer

PROMPT = tuple(b"once upon a time there was")
TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine(start=False)


async def generate(engine: Engine, prompt: tuple[int, ...] = PROMPT, **options: Any) -> list[TokenEvent]:
    request = Request(prompt, Sampling(**{"max_tokens": 24, "ignore_eos": True, **options}))
    [events] = await drive(engine, collect(engine, request))
    if isinstance(events, BaseException):
        raise events
    return events


def one(logits: list[float], prompt: tuple[int, ...] = (0,), seed: int = 0, **options: Any) -> int:
    """The token drawn from these logits."""
    job = GenerateJob(
        Request(prompt, Sampling(seed=seed, **options)), 8, TextStream(Detokenizer(TOKENIZER), ()), None, lambda _: True
    )
    return draw(job, summed_up(torch.empty(0, 1), torch.tensor([logits])), 0).token


async def test_the_same_seed_is_the_same_output_and_another_is_another(engine: Engine) -> None:
    first, again, other = [drawn(await generate(engine, temperature=1.0, seed=seed, top_k=50)) for seed in (3, 3, 4)]
    assert first == again != other


async def test_without_a_seed_two_outputs_differ(engine: Engine) -> None:
    assert drawn(await generate(engine, temperature=2.0)) != drawn(await generate(engine, temperature=2.0))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=12), st.sampled_from([0.5, 1.0, 2.0]))
def test_frequencies_follow_the_distribution(logits: list[float], temperature: float) -> None:
    drawn_ = Counter(one(logits, seed=seed, temperature=temperature) for seed in range(300))
    expected = torch.softmax(torch.tensor(logits) / temperature, 0).tolist()
    for token, probability in enumerate(expected):
        assert abs(drawn_[token] / 300 - probability) < 5 * math.sqrt(0.25 / 300)


LOGITS = [math.log(p) for p in (0.5, 0.25, 0.15, 0.06, 0.04)]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.45}, {0}),
        ({"top_p": 0.7}, {0, 1}),
        ({"top_p": 0.76}, {0, 1, 2}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({"top_k": 3, "min_p": 0.4}, {0, 1}),
        ({"top_k": 2, "top_p": 0.6}, {0}),
        ({}, {0, 1, 2, 3, 4}),
    ],
)
def test_filters_leave_what_they_say(options: dict[str, Any], left: set[int]) -> None:
    assert {one(LOGITS, seed=seed, temperature=1.0, **options) for seed in range(300)} == left


def test_a_flat_distribution_is_cut_by_top_p_beyond_the_sorted_head() -> None:
    seen = {one([0.0] * 2000, seed=seed, temperature=1.0, top_p=0.9) for seed in range(200)}
    assert len(seen) > 150


def test_penalties_move_what_was_seen() -> None:
    assert one([1.0, 0.9, 0.0], prompt=(0,)) == 0
    assert one([1.0, 0.9, 0.0], prompt=(0,), repetition_penalty=1.5) == 1
    assert one([-0.5, -0.6], prompt=(0,), repetition_penalty=2.0) == 1
    assert one([1.0, 0.9, 0.0], prompt=(0,), presence_penalty=2.0) == 0  # the prompt does not count here


async def test_presence_and_frequency_count_the_output(engine: Engine) -> None:
    plain = Counter(e.token_id for e in await generate(engine, max_tokens=60))
    penalised = Counter(e.token_id for e in await generate(engine, max_tokens=60, frequency_penalty=2.0))
    assert max(penalised.values()) <= max(plain.values())
    assert len(penalised) >= len(plain)


async def test_logprobs_are_of_the_distribution_before_temperature(engine: Engine) -> None:
    greedy = await generate(engine, max_tokens=1, logprobs=5)
    hot = await generate(engine, max_tokens=1, logprobs=5, temperature=5.0, seed=1, repetition_penalty=3.0)
    assert hot[0].top_logprobs == greedy[0].top_logprobs
    tokens, values = zip(*greedy[0].top_logprobs, strict=True)
    assert (greedy[0].token_id, greedy[0].logprob) == (tokens[0], values[0])
    assert list(values) == sorted(values, reverse=True)
    assert sum(map(math.exp, values)) <= 1


async def test_max_tokens_ends_with_length_and_usage(engine: Engine) -> None:
    events = await generate(engine, max_tokens=5)
    assert [event.finish for event in events] == [None] * 4 + ["length"]
    assert events[-1].usage is not None
    assert (events[-1].usage.prompt, events[-1].usage.completion) == (len(PROMPT), 5)


async def test_max_tokens_is_cut_to_the_context(engine: Engine) -> None:
    events = await generate(engine, prompt=tuple(range(200)) * 2 + tuple(range(109)), max_tokens=100)
    assert len(events) == 512 - 509
    assert events[-1].finish == "length"


async def test_a_stop_token_ends_and_is_not_shown(engine: Engine) -> None:
    plain = await generate(engine)
    stop = plain[4].token_id
    at = [event.token_id for event in plain].index(stop)
    events = await generate(engine, stop_token_ids=(stop,))
    assert [event.token_id for event in events] == [event.token_id for event in plain[: at + 1]]
    assert events[-1].finish == "stop"
    assert text_of(events) == TOKENIZER.decode([event.token_id for event in events[:-1]])


async def test_a_stop_string_ends_and_is_never_shown(engine: Engine) -> None:
    plain = text_of(await generate(engine, max_tokens=60))
    stop = plain[10:14]
    events = await generate(engine, max_tokens=60, stop=("never there", stop))
    assert text_of(events) == plain[: plain.index(stop)]
    assert events[-1].finish == "stop"


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_over_token_borders(text: str, stops: list[str]) -> None:
    """Whatever the text and however it is cut into tokens, what is shown is the text before the first stop string."""
    stream = TextStream(Detokenizer(TOKENIZER), stops)
    shown = ""
    for token in TOKENIZER.encode(text):
        more, hit = stream.add(token)
        shown += more
        if hit:
            break
    shown += stream.finish()
    cuts = [text.index(stop) + len(stop) for stop in stops if stop in text]
    first = min(cuts, default=None)
    expected = text if first is None else text[: min(text.index(s) for s in stops if s in text[:first])]
    assert shown == expected


async def test_end_of_turn_ends_unless_it_is_ignored(engine: Engine) -> None:
    plain = await generate(engine, max_tokens=60)
    end = plain[7].token_id
    ending = tiny_tokenizer()
    ending.eos_ids = frozenset({end})
    other = Engine(tiny_decoder(), ending, Shelf(), start=False)
    at = [event.token_id for event in plain].index(end)
    stopped = await generate(other, max_tokens=60, ignore_eos=False)
    assert len(stopped) == at + 1
    assert stopped[-1].finish == "stop"
    assert text_of(stopped) == TOKENIZER.decode([event.token_id for event in stopped[:-1]])
    assert drawn(await generate(other, max_tokens=60)) == drawn(plain)


# ------------------------------------------------------------------------------------------------- several samples
async def samples(engine: Engine, request: Request, n: int) -> list[list[tuple[int, float]]]:
    async def every() -> list[tuple[int, TokenEvent]]:
        return [said async for said in engine.samples(request, n)]

    [said] = await drive(engine, every())
    if isinstance(said, BaseException):
        raise said
    return [drawn([event for which, event in said if which == number]) for number in range(n)]


@pytest.mark.parametrize("length", [1, 16, 40])
async def test_samples_are_as_if_asked_for_one_by_one_and_read_the_prompt_once(length: int) -> None:
    prompt, sampling = tuple(range(length)), Sampling(max_tokens=5, temperature=1.0, seed=7, ignore_eos=True)
    engine = tiny_engine(start=False)
    answers = await samples(engine, Request(prompt, sampling), 4)
    assert engine.stats().computed == length + 4 * 4  # nobody reads the last token drawn
    engine.check()
    assert engine.stats().pages_used == 0
    for number, answer in enumerate(answers):
        alone = tiny_engine(start=False)
        one = Request(prompt, replace(sampling, seed=7 + number))
        [events] = await drive(alone, collect(alone, one))
        assert not isinstance(events, BaseException)
        assert answer == drawn(events)
    assert len({str(answer) for answer in answers}) > 1


@bit_equal
async def test_samples_that_find_no_room_wait_and_those_not_wanted_cost_nothing() -> None:
    prompt, sampling = tuple(range(40)), Sampling(max_tokens=20, temperature=1.0, seed=3, ignore_eos=True)
    engine = tiny_engine(start=False, kv_tokens=16 * 6)
    answers = await samples(engine, Request(prompt, sampling), 5)
    roomy = tiny_engine(start=False)
    assert answers == await samples(roomy, Request(prompt, sampling), 5)
    stream = engine.samples(Request(prompt, sampling), 3)
    [first] = await drive(engine, anext(stream))
    assert isinstance(first, tuple)
    await stream.aclose()  # type: ignore[attr-defined]
    while engine.step():
        pass
    engine.check()
    assert (engine.stats().pages_used, engine.stats().running, engine.stats().waiting) == (0, 0, 0)
    with pytest.raises(SettingsError, match="n is 0"):
        await samples(engine, Request(prompt, sampling), 0)
