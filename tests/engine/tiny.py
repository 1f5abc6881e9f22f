"""A decoder that a test can run thousands of times: two layers, random weights, the bytes as vocabulary."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import tokenizers
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor

from plural.engine import Engine, EngineSettings, Request
from plural.engine.kernels import abi
from plural.errors import unknown_name
from plural.models.attention import PackedAttend
from plural.models.base import Base
from plural.models.chat import ChatFormat
from plural.models.config import MODULES, DecoderConfig, Group
from plural.models.decoder import Decoder, DecoderWeights, Delta, LayerWeights
from plural.models.tokenizer import CALL_TAGS, Tokenizer
from plural.types import TokenEvent
from tests.models.tiny import TEMPLATE, backend

T = TypeVar("T")

bit_equal = pytest.mark.skipif(
    abi.library() is None, reason="torch is bit-equal only up to the rounding of its attention"
)

CONFIG = DecoderConfig(
    architecture="llama",
    vocab_size=258,
    hidden_size=64,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=96,
    max_positions=512,
)


def tiny_tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    return Tokenizer(backend)


def tiny_decoder(seed: int = 0, config: DecoderConfig = CONFIG) -> Decoder:
    random = torch.Generator().manual_seed(seed)

    def weight(inputs: int, outputs: int) -> torch.Tensor:
        return (torch.randn((inputs, outputs), generator=random) * inputs**-0.5).T.contiguous()

    c = config
    layers = tuple(
        LayerWeights(
            input_norm_H=torch.ones(c.hidden_size),
            qkv_OI=weight(c.hidden_size, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim) * 2,
            o_OI=weight(c.num_heads * c.head_dim, c.hidden_size),
            post_norm_H=torch.ones(c.hidden_size),
            gate_up_OI=weight(c.hidden_size, 2 * c.intermediate_size),
            down_OI=weight(c.intermediate_size, c.hidden_size),
        )
        for _ in range(c.num_layers)
    )
    embed_VH = torch.randn((c.vocab_size, c.hidden_size), generator=random)
    return Decoder(
        c, DecoderWeights(embed_VH, layers, torch.ones(c.hidden_size), weight(c.hidden_size, c.vocab_size) * 2)
    )


def as_q4_1(w_OI: Tensor) -> Tensor:
    blocks = quantize(w_OI.numpy(), GGMLQuantizationType.Q4_1)
    return torch.from_numpy(dequantize(blocks, GGMLQuantizationType.Q4_1))


def four_bit(decoder: Decoder) -> Decoder:
    """The decoder as a file in Q4_1 would hold it, the head excepted."""
    weights = decoder.weights.map_linears(as_q4_1)
    return Decoder(decoder.config, replace(weights, head_VH=decoder.weights.head_VH))


@dataclass(frozen=True)
class TinyAdapter:
    digest: str
    tensors: Mapping[tuple[int, str], tuple[np.ndarray, np.ndarray]]
    scale: float = 2.0

    def scale_of(self, module: str, layer: int | None = None) -> float:
        return self.scale

    def check(self) -> None: ...


def tiny_adapter(
    seed: int, rank: int = 4, modules: tuple[str, ...] = MODULES, config: DecoderConfig = CONFIG
) -> TinyAdapter:
    random = np.random.default_rng(seed)

    def pair(module: str) -> tuple[np.ndarray, np.ndarray]:
        a = random.standard_normal((rank, config.in_features(module))) * config.in_features(module) ** -0.5
        b = random.standard_normal((config.out_features(module), rank)) * 0.3
        return a.astype(np.float32), b.astype(np.float32)

    tensors = {(layer, module): pair(module) for layer in range(config.num_layers) for module in modules}
    return TinyAdapter(f"{seed:02d}-{rank}-{'+'.join(modules)}", tensors)


@dataclass
class Shelf:
    """Adapters by digest, and how often each was asked for."""

    adapters: dict[str, TinyAdapter] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)

    def __call__(self, digest: str) -> TinyAdapter:
        self.loads.append(digest)
        if digest not in self.adapters:
            raise unknown_name("adapter", digest, self.adapters)
        return self.adapters[digest]

    def put(self, adapter: TinyAdapter) -> str:
        self.adapters[adapter.digest] = adapter
        return adapter.digest


class SlowShelf(Shelf):
    """Nothing comes off it until it is opened."""

    def __init__(self, *adapters: TinyAdapter) -> None:
        super().__init__({one.digest: one for one in adapters})
        self.open = threading.Event()

    def __call__(self, digest: str) -> TinyAdapter:
        assert self.open.wait(60)
        return super().__call__(digest)


def tiny_engine(
    shelf: Shelf | None = None, *, start: bool = True, decoder: Decoder | None = None, **settings: object
) -> Engine:
    return Engine(
        decoder or tiny_decoder(), tiny_tokenizer(), shelf or Shelf(), EngineSettings(**settings), start=start
    )


def tiny_base(config: DecoderConfig = CONFIG) -> Base:
    """The decoder with a tokenizer that has the tags of tool calls, and a chat format."""
    tokenizer = Tokenizer(backend(CALL_TAGS))
    sized = replace(config, vocab_size=tokenizer.vocab_size)
    return Base("tiny", "tiny", tiny_decoder(config=sized), tokenizer, ChatFormat(tokenizer, TEMPLATE), sized, Path())


def pages_of(*adapters: TinyAdapter) -> int:
    """How many pages the adapters take; this depends on the kernels."""
    engine = tiny_engine(shelf := Shelf(), start=False)
    for one in adapters:
        engine.pin(shelf.put(one))
    return engine.stats().pages_used


async def drive(engine: Engine, *work: Awaitable[T]) -> list[T | BaseException]:
    """Runs an engine that has no thread, one step after another, until all of `work` has ended."""
    tasks = [asyncio.ensure_future(one) for one in work]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        engine.step()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def collect(engine: Engine, request: Request) -> list[TokenEvent]:
    return [event async for event in engine.generate(request)]


def text_of(events: Sequence[TokenEvent]) -> str:
    return "".join(event.text for event in events)


def drawn(events: Sequence[TokenEvent]) -> list[tuple[int, float]]:
    """Token and log-probability, to the bit."""
    return [(event.token_id, event.logprob) for event in events]


# ------------------------------------------------------------------------------------------------ the plain decoder
@dataclass(frozen=True)
class PlainDelta:
    """LoRA as its definition says, one module after another."""

    config: DecoderConfig
    adapter: TinyAdapter

    def __call__(self, layer: int, group: Group, x_TI: Tensor, y_TO: Tensor) -> Tensor:
        for module, part in self.config.slices(group).items():
            if (layer, module) in self.adapter.tensors:
                a_RI, b_OR = map(torch.from_numpy, self.adapter.tensors[layer, module])
                y_TO[:, part] += self.adapter.scale_of(module) * (x_TI @ a_RI.T @ b_OR.T)
        return y_TO


def reference_states(
    decoder: Decoder, tokens: Sequence[int], adapter: TinyAdapter | None = None, delta: Delta | None = None
) -> Tensor:
    """Final states of one sequence, without pages, batches or our kernels."""
    attend = PackedAttend([len(tokens)])
    if adapter is not None:
        delta = PlainDelta(decoder.config, adapter)
    return decoder.hidden(torch.tensor(tokens), attend.positions(), attend, delta)


def reference_logprobs(
    decoder: Decoder, tokens: Sequence[int], adapter: TinyAdapter | None = None, delta: Delta | None = None
) -> Tensor:
    return torch.log_softmax(decoder.logits(reference_states(decoder, tokens, adapter, delta)), dim=-1)
