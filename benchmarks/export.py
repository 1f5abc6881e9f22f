"""Hands our base and adapters to llama.cpp in the files that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

from plural.models.base import Base
from plural.models.config import PARENT
from plural.models.gguf import file_name
from plural.specialists.adapter import AdapterWeights


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
