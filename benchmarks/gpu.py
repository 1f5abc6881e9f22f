"""Times the engine on a GPU: decode steps with torch's kernels and with Triton's, and mixed decoding beside peft.

    python benchmarks/gpu.py                       rows 1, 8, 32, 128; K 0, 1, 8, all; then 64 and 256 in flight
    python benchmarks/gpu.py --rounds 5 --rows 1 8 --in-flight 8 --requests 16 --no-peft

Without a base model at hand the weights are random, of SmolLM2-135M's shape: what is timed does not depend on them. A
step's cells are the median and the best of `--rounds`, the kernels taking turns; the device is waited for. Throughput
is output tokens a second of prompts of 32 to 128 random tokens, greedy, adapters of rank 16 on every linear; peft,
where it is installed, runs the same in full batches. After `--seconds` no more is begun. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import tokenizers
import torch
from adapters import random_adapter
from tokenizers import decoders, models, pre_tokenizers
from workload import Call, random_prompt, together

from plural.engine import Engine, EngineSettings
from plural.engine.kernels.choice import triton_is_there
from plural.engine.kernels.interface import Kernels, Segment, Span
from plural.engine.kernels.pages import Pages, page_bytes
from plural.engine.kernels.torch_kernels import TorchKernels
from plural.errors import BaseModelError
from plural.models.base import load_base
from plural.models.config import MODULES, PARENT, DecoderConfig
from plural.models.decoder import Decoder, DecoderWeights, LayerWeights
from plural.models.tokenizer import Tokenizer
from plural.specialists.adapter import AdapterWeights

PAGE = 16
DEVICE = torch.device("cuda")
SHAPE = DecoderConfig("llama", 49152, 576, 30, 9, 3, 64, 1536, 8192, rope_theta=100_000.0)


# ------------------------------------------------------------------------------------------------------- the base
def some_base() -> tuple[str, Decoder, Tokenizer]:
    try:
        base = load_base(device=DEVICE)
    except BaseModelError:
        return "random weights of SmolLM2-135M's shape", random_decoder(SHAPE), plain_tokenizer(SHAPE.vocab_size)
    return base.name, base.decoder, base.tokenizer


def random_decoder(config: DecoderConfig) -> Decoder:
    torch.manual_seed(0)

    def weight(inputs: int, outputs: int) -> torch.Tensor:
        weight_OI: torch.Tensor = torch.randn(outputs, inputs, device=DEVICE) * inputs**-0.5
        return weight_OI

    c, ones = config, torch.ones(config.hidden_size, device=DEVICE)
    layers = tuple(
        LayerWeights(
            input_norm_H=ones,
            qkv_OI=weight(c.hidden_size, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim),
            o_OI=weight(c.num_heads * c.head_dim, c.hidden_size),
            post_norm_H=ones,
            gate_up_OI=weight(c.hidden_size, 2 * c.intermediate_size),
            down_OI=weight(c.intermediate_size, c.hidden_size),
        )
        for _ in range(c.num_layers)
    )
    embed_VH = torch.randn(c.vocab_size, c.hidden_size, device=DEVICE)
    return Decoder(c, DecoderWeights(embed_VH, layers, ones, weight(c.hidden_size, c.vocab_size)))


def plain_tokenizer(size: int) -> Tokenizer:
    """Bytes, then tokens that no text becomes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"#{number}" for number in range(size - len(letters) - 1))]
    backend = tokenizers.Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>"])
    return Tokenizer(backend)


def machines() -> dict[str, Kernels]:
    found: dict[str, Kernels] = {"torch fp32": TorchKernels()}
    if triton_is_there():
        from plural.engine.kernels.triton_kernels import TritonKernels

        found |= {"triton fp32": TritonKernels(), "triton bf16": TritonKernels(half=True)}
    return found


# ---------------------------------------------------------------------------------------------------------- steps
def stepper(
    kernels: Kernels, decoder: Decoder, adapters: Sequence[AdapterWeights], most: int, context: int
) -> Callable[[int, int], None]:
    """Runs a step of so many rows, each with `context` tokens, that wear so many adapters; and waits for it."""
    config, held = decoder.config, -(-context // PAGE)
    forward = kernels.forward(decoder)
    each = page_bytes(config, PAGE, torch.float32)
    # As many adapters as rows: the pages are each one's own, the weights those of a few.
    parcels = [kernels.pack(config, one, each, torch.float32) for one in adapters]
    worn = [parcels[number % len(parcels)] for number in range(most)]
    first = np.cumsum([1 + most * held, *(parcel.pages for parcel in worn)]).tolist()
    memory = Pages(config, first[-1], PAGE, torch.float32, DEVICE)
    packed = [
        kernels.place(parcel, memory, range(at, at + parcel.pages)) for parcel, at in zip(worn, first, strict=False)
    ]

    def step(rows: int, k: int) -> None:
        spans = [Span(r, r + 1, context, range(1 + r * held, 1 + (r + 1) * held)) for r in range(rows)]
        cuts = [rows * i // max(k, 1) for i in range(k + 1)]
        segments = [Segment(cuts[i], cuts[i + 1], packed[i], 1.0) for i in range(k)]
        with torch.inference_mode():
            forward([1000 + r for r in range(rows)], [context - 1] * rows, range(rows), memory, spans, segments)
        torch.cuda.synchronize()

    return step


def time_steps(decoder: Decoder, adapters: Sequence[AdapterWeights], given: argparse.Namespace) -> dict[str, Any]:
    steppers = {
        name: stepper(kernels, decoder, adapters, max(given.rows), given.context)
        for name, kernels in machines().items()
    }
    print(
        f"\nms a decode step at {given.context} tokens: median (best)\n{'':24}" + "".join(f"{n:>22}" for n in steppers)
    )
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for rows, k in [(each, k) for each in given.rows for k in sorted({0, 1, min(8, each), each})]:
        case = f"{rows} rows, K = {k}"
        if late(given, case):
            break
        taken: dict[str, list[float]] = {name: [] for name in steppers}
        for turn in range(given.rounds + 3):
            for name, step in steppers.items():
                if name == "torch fp32" and turn >= 3 + max(3, given.rounds // 4):
                    continue  # it takes most of the time
                start = time.perf_counter()
                step(rows, k)
                if turn >= 3:  # compiled, and captured
                    taken[name].append((time.perf_counter() - start) * 1e3)
        table[case] = {name: (statistics.median(each), min(each)) for name, each in taken.items()}
        cells = "".join(f"{f'{median:.3f} ({best:.3f})':>22}" for median, best in table[case].values())
        print(f"{case:24}{cells}", flush=True)
    return table


# ------------------------------------------------------------------------------------------------------ throughput
Rate: TypeAlias = tuple[str, int, int, float]  # who, in flight, K, tokens a second


def late(given: argparse.Namespace, what: str) -> bool:
    if time.perf_counter() < given.until:
        return False
    print(f"{what}: no time is left (--seconds)", flush=True)
    return True


def calls(given: argparse.Namespace, vocabulary: int, in_flight: int, k: int, seed: int) -> list[Call]:
    dice = random.Random(seed)
    count = max(given.requests, in_flight)
    return [
        Call(
            random_prompt(dice, dice.randint(32, 128), vocabulary),
            given.tokens,
            f"random-{number % k}" if k else None,
        )
        for number in range(count)
    ]


def our_rates(
    name: str, decoder: Decoder, tokenizer: Tokenizer, adapters: Sequence[AdapterWeights], given: argparse.Namespace
) -> Iterator[Rate]:
    shelf, kernels = {one.digest: one for one in adapters}, machines()[name]
    for in_flight in given.in_flight:
        settings = EngineSettings(max_running=in_flight, step_tokens=max(512, in_flight), kv_tokens=in_flight * 512)
        engine = Engine(decoder, tokenizer, shelf.__getitem__, settings, kernels=kernels)
        for k in given.k:
            if late(given, f"{name}, {in_flight} in flight, K = {k}"):
                break
            warm = [replace(one, tokens=12) for one in calls(given, tokenizer.vocab_size, in_flight, k, -1)]
            asyncio.run(together(engine, warm, in_flight))
            asked = calls(given, tokenizer.vocab_size, in_flight, k, k)
            seconds, _ = asyncio.run(together(engine, asked, in_flight))
            yield name, in_flight, k, len(asked) * given.tokens / seconds
        engine.close()


def peft_rates(
    decoder: Decoder, adapters: Sequence[AdapterWeights], vocabulary: int, given: argparse.Namespace
) -> Iterator[Rate]:
    """transformers in bf16, its faster precision, and peft's `adapter_names`."""
    model = as_transformers(decoder)
    for k in sorted(given.k):
        while k > len(getattr(model, "peft_config", {})):
            model = with_adapter(model, adapters[len(getattr(model, "peft_config", {}))])
        for in_flight in given.in_flight:
            if late(given, f"peft, {in_flight} in flight, K = {k}"):
                return
            asked = calls(given, vocabulary, in_flight, k, k)[:in_flight]
            batch(model, asked[: min(8, in_flight)], 2)
            torch.cuda.synchronize()
            start = time.perf_counter()
            batch(model, asked, given.tokens)
            torch.cuda.synchronize()
            yield "peft bf16", in_flight, k, len(asked) * given.tokens / (time.perf_counter() - start)


def as_transformers(decoder: Decoder) -> Any:
    """The decoder's weights in a LlamaForCausalLM. Only linears matter to the time, and only their sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    c = decoder.config
    config = LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim,
        max_position_embeddings=c.max_positions,
        rms_norm_eps=c.rms_eps,
        rope_theta=c.rope_theta,
    )
    with torch.device(DEVICE):
        model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = None
    return model.to(torch.bfloat16).eval()


def with_adapter(model: Any, weights: AdapterWeights) -> Any:
    from peft import LoraConfig, get_peft_model

    name = weights.digest.removeprefix("random-")
    config = LoraConfig(r=weights.config.rank, lora_alpha=weights.config.alpha, target_modules=list(MODULES))
    if hasattr(model, "peft_config"):
        model.add_adapter(name, config)
    else:
        model = get_peft_model(model, config, adapter_name=name)
    layers = model.base_model.model.model.layers
    for (layer, module), (a_RI, b_OR) in weights.tensors.items():
        linear = getattr(getattr(layers[layer], PARENT[module]), module)
        linear.lora_A[name].weight.data = torch.from_numpy(a_RI).to(DEVICE, torch.bfloat16)
        linear.lora_B[name].weight.data = torch.from_numpy(b_OR).to(DEVICE, torch.bfloat16)
    return model.eval()


@torch.inference_mode()
def batch(model: Any, asked: Sequence[Call], tokens: int) -> None:
    longest = max(len(one.prompt) for one in asked)
    ids = torch.tensor([[0] * (longest - len(one.prompt)) + list(one.prompt) for one in asked], device=DEVICE)
    mask = torch.tensor([[0] * (longest - len(r.prompt)) + [1] * len(r.prompt) for r in asked], device=DEVICE)
    names = [one.adapter.removeprefix("random-") for one in asked if one.adapter is not None]
    named: dict[str, Any] = {}
    if len(set(names)) == 1:
        model.set_adapter(names[0])  # faster than naming it for every row
    elif names:
        named = {"adapter_names": names}
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    made = model.generate(input_ids=ids, attention_mask=mask, **options, **named)
    assert made.shape == (len(asked), longest + tokens), made.shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--context", type=int, default=256, help="tokens that every row of a timed step has")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--k", type=int, nargs="+", default=[0, 1, 8], help="distinct adapters in flight, at most 8")
    parser.add_argument("--requests", type=int, default=128, help="at least; as many as are in flight")
    parser.add_argument("--tokens", type=int, default=64, help="that every request generates")
    parser.add_argument("--seconds", type=float, default=85)
    parser.add_argument("--no-peft", action="store_true")
    given = parser.parse_args()
    given.until = time.perf_counter() + given.seconds
    if not torch.cuda.is_available():
        parser.error("there is no GPU")
    name, decoder, tokenizer = some_base()
    triton = importlib.import_module("triton").__version__ if triton_is_there() else "none"
    device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}, triton {triton}; {name}, rank {given.rank}")
    adapters = [random_adapter(decoder.config, seed, given.rank) for seed in range(8)]
    steps = time_steps(decoder, adapters, given)
    rates: list[Rate] = []

    def show(found: Iterator[Rate]) -> None:
        for one in found:
            rates.append(one)
            print(f"{one[0]:16}{one[1]:>11}{one[2]:>5}{one[3]:>14.0f}", flush=True)

    print(f"\n{'':16}{'in flight':>11}{'K':>5}{'tokens/s':>14}")
    *fast, slow = sorted(machines(), key=lambda one: "torch" in one)
    for machine in fast:
        show(our_rates(machine, decoder, tokenizer, adapters, given))
    if given.no_peft or importlib.util.find_spec("peft") is None:
        print("peft: skipped" + ("" if given.no_peft else ", not installed"))
    else:
        show(peft_rates(decoder, adapters, tokenizer.vocab_size, given))
    show(our_rates(slow, decoder, tokenizer, adapters, given))
    asked = {key: getattr(given, key) for key in ("rounds", "context", "rank", "requests", "tokens")}
    said = {"benchmark": "gpu", "device": device, "torch": torch.__version__, "triton": triton, "base": name}
    print(json.dumps(said | asked | {"ms": steps, "tokens_per_s": rates}))


if __name__ == "__main__":
    main()
