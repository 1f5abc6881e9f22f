"""The whole engine on a GPU against the one on the CPU, in fp32: the same tokens, the same log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from plural.engine import Engine, EngineSettings, Request
from plural.engine.kernels.choice import best_kernels, triton_is_there
from plural.engine.kernels.interface import Kernels
from plural.engine.kernels.torch_kernels import TorchKernels
from plural.errors import SettingsError
from plural.models.decoder import Decoder
from plural.models.tokenizer import Tokenizer
from plural.models.weights import move
from plural.types import AdapterRef, Grammar, Mixture, Sampling, TokenEvent

from .tiny import CONFIG, Shelf, collect, drive, tiny_adapter, tiny_decoder, tiny_tokenizer

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

# The shape of SmolLM2-135M, for where the model itself is not.
SHAPE = replace(
    CONFIG,
    vocab_size=49152,
    hidden_size=576,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    intermediate_size=1536,
    max_positions=2048,
)
CHANGES = {
    "other sizes": {"num_heads": 5, "num_kv_heads": 1, "head_dim": 20, "hidden_size": 40, "intermediate_size": 72},
    "a KV head for every head": {"num_heads": 8, "num_kv_heads": 8, "head_dim": 8},
    "as it is": {},
}


def on_gpu(decoder: Decoder) -> Decoder:
    return Decoder(decoder.config, move(decoder.weights, torch.float32, torch.device("cuda")))


def wide_tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, *(f"#{i}" for i in range(SHAPE.vocab_size - 258))])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    return Tokenizer(backend)


def requests(refs: Sequence[AdapterRef], vocabulary: int, tokens: int) -> list[Request]:
    """Every way to wear adapters, over prompts of one to hundreds of tokens, drawn from in several ways."""
    first, second, third = refs
    ways: list[AdapterRef | Mixture | None] = [
        None,
        first,
        second,
        third,
        replace(second, offset=35),
        (replace(first, scale=0.7), replace(third, scale=-0.3)),
        replace(first, scale=0.0),
        (replace(first, offset=3), replace(second, scale=0.5)),
    ]
    lengths = [1, 5, 16, 17, 50, 131]
    chance = torch.Generator().manual_seed(0)
    long = torch.randint(vocabulary // 16, vocabulary - 2, (max(lengths),), generator=chance).tolist()
    return [
        Request(
            tuple(long[: lengths[number % len(lengths)]]),
            Sampling(max_tokens=tokens, ignore_eos=True, logprobs=4 if number % 3 == 0 else 0),
            way,
        )
        for number, way in enumerate(ways * 2)
    ]


async def answers(engine: Engine, asked: Sequence[Request]) -> list[list[TokenEvent]]:
    """All at once, and once more, when their prompts are in the cache."""
    found: list[list[TokenEvent]] = []
    for _ in range(2):
        for events in await drive(engine, *(collect(engine, one) for one in asked)):
            assert not isinstance(events, BaseException), events
            found.append(events)
    assert engine.stats().cached > 0
    engine.check()
    return found


def compare(ours: list[list[TokenEvent]], theirs: list[list[TokenEvent]]) -> None:
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert [event.token_id for event in one] == [event.token_id for event in other], number
        worst = max(abs(a.logprob - b.logprob) for a, b in zip(one, other, strict=True))
        assert worst < 1e-3, (number, worst)
        for a, b in zip(one, other, strict=True):
            assert len(a.top_logprobs) == len(b.top_logprobs)
            for (_, here), (_, there) in zip(a.top_logprobs, b.top_logprobs, strict=True):
                assert abs(here - there) < 1e-3


@pytest.mark.parametrize("kernels", [None, TorchKernels()], ids=["chosen", "torch"])
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
async def test_a_tiny_decoder_answers_as_on_the_cpu(changes: dict[str, int], kernels: Kernels | None) -> None:
    config = replace(CONFIG, **changes)
    shelf, decoder = Shelf(), tiny_decoder(config=config)
    worn = [tiny_adapter(1, 16, config=config), tiny_adapter(2, 64, config=config)]
    worn.append(tiny_adapter(3, 3, ("q_proj", "down_proj"), config))
    asked = requests([AdapterRef(shelf.put(one)) for one in worn], config.vocab_size, 9)
    ours, theirs = (
        Engine(
            where, tiny_tokenizer(), shelf, EngineSettings(step_tokens=48, page_size=32), kernels=machine, start=False
        )
        for where, machine in ((on_gpu(decoder), kernels), (decoder, TorchKernels()))
    )
    compare(await answers(ours, asked), await answers(theirs, asked))


async def whole(decoder: Decoder, tokenizer: Tokenizer, shelf: Any, refs: Sequence[AdapterRef]) -> None:
    settings = EngineSettings(step_tokens=96, dtype="fp32")
    asked = requests(refs, tokenizer.vocab_size, 8)
    ours, theirs = (Engine(where, tokenizer, shelf, settings, start=False) for where in (on_gpu(decoder), decoder))
    compare(await answers(ours, asked), await answers(theirs, asked))


async def test_a_decoder_as_large_as_a_real_one_answers_as_on_the_cpu() -> None:
    shelf = Shelf()
    adapters = [tiny_adapter(1, 16, config=SHAPE), tiny_adapter(2, 64, config=SHAPE)]
    adapters.append(tiny_adapter(3, 3, ("q_proj", "down_proj"), SHAPE))
    refs = [AdapterRef(shelf.put(replace(one, scale=0.2))) for one in adapters]
    await whole(tiny_decoder(config=SHAPE), wide_tokenizer(), shelf, refs)


async def test_the_real_base_answers_as_on_the_cpu(base: Any) -> None:
    shelf = Shelf()
    adapters = [tiny_adapter(1, 16, config=base.config), tiny_adapter(2, 64, config=base.config)]
    adapters.append(tiny_adapter(3, 3, ("q_proj", "down_proj"), base.config))
    refs = [AdapterRef(shelf.put(replace(one, scale=0.05))) for one in adapters]
    await whole(base.decoder, base.tokenizer, shelf, refs)


async def test_choices_samples_grammars_and_vectors_are_those_of_the_cpu() -> None:
    prompt = tuple(b"the answer is ")
    shelf, found = Shelf(), []
    for decoder in (on_gpu(tiny_decoder()), tiny_decoder()):
        ref = AdapterRef(shelf.put(tiny_adapter(1, 8)))
        engine = Engine(decoder, tiny_tokenizer(), shelf, start=False)
        [decision] = await drive(engine, engine.choose(prompt, ["yes", "no", "never"], ref))
        [[vector, other]] = await drive(engine, engine.embed([prompt, prompt[:1]]))
        digits = Request(prompt, Sampling(max_tokens=6), ref, Grammar.regex("[0-9]{4}"))
        drawn = Request(prompt, Sampling(max_tokens=6, temperature=0.8, top_k=20, seed=3, ignore_eos=True), ref)
        written, sampled = await drive(engine, collect(engine, digits), collect(engine, drawn))
        assert not isinstance(decision, BaseException), decision
        assert not isinstance(written, BaseException), written
        assert not isinstance(sampled, BaseException), sampled
        found.append((decision, [*vector, *other], written, sampled))
    (ours, vectors, *events), (theirs, expected, *others) = found
    assert ours.value == theirs.value
    assert abs(ours.probability - theirs.probability) < 1e-3
    torch.testing.assert_close(torch.tensor(vectors), torch.tensor(expected), rtol=1e-3, atol=1e-4)
    compare(events, others)


def test_the_machine_and_the_setting_choose_the_kernels() -> None:
    decoder = on_gpu(tiny_decoder())
    with pytest.raises(SettingsError, match="int8"):
        best_kernels(decoder, EngineSettings(dtype="int8"))
    chosen = best_kernels(decoder, EngineSettings())
    assert type(chosen).__name__ == ("TritonKernels" if triton_is_there() else "TorchKernels")
    half = Decoder(decoder.config, move(decoder.weights, torch.bfloat16, torch.device("cuda")))
    assert type(best_kernels(half, EngineSettings())) is TorchKernels
