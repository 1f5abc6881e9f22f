"""Hands our base and adapters to other engines in the files that they read: Hugging Face's and llama.cpp's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize
from safetensors.torch import save_file
from torch import Tensor

from plural.models.base import Base
from plural.models.config import GROUPS, PARENT
from plural.models.gguf import file_name
from plural.specialists.adapter import AdapterWeights


def write_huggingface(base: Base, folder: Path) -> Path:
    """A Llama directory with the base's weights in fp32, exactly those that our engine multiplies with."""
    config = base.config
    if config.architecture not in ("llama", "LlamaForCausalLM") or config.rope_scaling.get("rope_type") not in (
        None,
        "default",
    ):
        raise SystemExit(f"Only a plain Llama can be handed to the other engines, not {config.architecture}.")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(_named(base)), folder / "model.safetensors", metadata={"format": "pt"})
    written = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied_head,
        "hidden_act": "silu",
        "eos_token_id": min(base.tokenizer.eos_ids),
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(written))
    base.tokenizer.backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **base.tokenizer.named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _named(base: Base) -> Iterator[tuple[str, Tensor]]:
    weights, config = base.decoder.weights, base.config
    yield "model.embed_tokens.weight", weights.embed_VH
    yield "model.norm.weight", weights.norm_H
    if not config.tied_head:
        yield "lm_head.weight", weights.head_VH
    for i, layer in enumerate(weights.layers):
        yield f"model.layers.{i}.input_layernorm.weight", layer.input_norm_H
        yield f"model.layers.{i}.post_attention_layernorm.weight", layer.post_norm_H
        fused = {"qkv": layer.qkv_OI, "o": layer.o_OI, "gate_up": layer.gate_up_OI, "down": layer.down_OI}
        for group in GROUPS:
            for module, rows in config.slices(group).items():
                yield f"model.layers.{i}.{PARENT[module]}.{module}.weight", fused[group][rows].clone()


def write_gguf(source: Path, target: Path, dtype: str) -> Path:
    """The GGUF with its matrices as "f16" or "f32" and all else as it was; "as it is" is a link to it."""
    if dtype == "as it is":
        target.symlink_to(source)
        return target
    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type)).astype(np.float32)
        writer.add_tensor(tensor.name, values.astype(np.float16) if dtype == "f16" and values.ndim > 1 else values)
    _finish(writer)
    return target


def write_lora_gguf(base: Base, adapter: AdapterWeights, target: Path) -> Path:
    """An adapter as llama.cpp's convert_lora_to_gguf.py writes it: fp32, q and k with their rows interleaved."""
    writer = GGUFWriter(target, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", adapter.config.alpha)
    heads: Mapping[str, int] = {"q_proj": base.config.num_heads, "k_proj": base.config.num_kv_heads}
    for (layer, module), (a_RI, b_OR) in adapter.tensors.items():
        name = file_name(f"model.layers.{layer}.{PARENT[module]}.{module}.weight")
        if module in heads:
            halves: Any = torch.from_numpy(b_OR).unflatten(0, (heads[module], 2, -1)).transpose(1, 2)
            b_OR = halves.reshape(b_OR.shape).contiguous().numpy()
        writer.add_tensor(f"{name}.lora_a", a_RI)
        writer.add_tensor(f"{name}.lora_b", b_OR)
    _finish(writer)
    return target


def _finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
