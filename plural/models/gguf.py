"""Reads a GGUF file: config, tensors in fp32 under their Hugging Face names, and what a tokenizer is made of.

The header is parsed here because a file's vocabulary is read at every start and must take milliseconds; the package
`gguf` knows the quantisations. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plural.errors import BaseModelError
from plural.models.config import DecoderConfig

ARCHITECTURES = ("llama", "qwen2", "qwen3")

_AGAIN = "Fetch the file again."
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Tensor type -> (values in a block, bytes of a block), for those that the package `gguf` dequantises.
_BLOCKS = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    20: (32, 18),  # IQ4_NL
    23: (256, 136),  # IQ4_XS
    30: (1, 2),  # BF16
}
_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in the file. `shape` is row-major, as torch has it; `start` and `size` are bytes."""

    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    def shapes(self, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The shapes of those of `names` (Hugging Face's) that the file has."""
        return {name: self.tensors[own].shape for name in names if (own := file_name(name)) in self.tensors}

    def read(self, name: str, config: DecoderConfig) -> Tensor:
        """One tensor by its Hugging Face name, dequantised to fp32, in Hugging Face's row order."""
        tensor = self.dequantise(file_name(name))
        if config.architecture == "llama" and ".q_proj." in name:
            return _unpermute(tensor, config.num_heads)
        if config.architecture == "llama" and ".k_proj." in name:
            return _unpermute(tensor, config.num_kv_heads)
        return tensor

    def dequantise(self, own_name: str) -> Tensor:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        stored = self.tensors[own_name]
        raw = np.fromfile(self.path, dtype=np.uint8, count=stored.size, offset=stored.start)
        values = dequantize(raw.reshape(-1, stored.size // prod(stored.shape[:-1])), GGMLQuantizationType(stored.kind))
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).reshape(stored.shape)


def file_name(name: str) -> str:
    """Hugging Face's tensor name -> the GGUF's."""
    if name in _TOP:
        return _TOP[name]
    _, _, layer, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_IN_LAYER[module]}.{kind}"


def _unpermute(w_OI: Tensor, heads: int) -> Tensor:
    """llama.cpp rotates neighbouring pairs and therefore interleaves the halves of each head's rows; this undoes it."""
    pairs: Tensor = w_OI.unflatten(0, (heads, -1, 2))
    return pairs.transpose(1, 2).reshape(w_OI.shape).contiguous()


# ------------------------------------------------------------------------------------------------------ the header
class _Cursor:
    """Reads little-endian values from the mapped file, one after another."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def one(self, code: str) -> Any:
        size = struct.calcsize(code)
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += size
        return value

    def string(self) -> str:
        length = self.one("Q")
        if self.at + length > len(self.data):
            raise struct.error("a string is longer than the file")
        raw = self.data[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.one(_SCALARS[kind])
        inner, count = self.one("I"), self.one("Q")
        if inner in _SCALARS:
            code = f"<{count}{_SCALARS[inner]}"
            values = struct.unpack_from(code, self.data, self.at)
            self.at += struct.calcsize(code)
            return values
        if count > len(self.data):
            raise struct.error("an array is longer than the file")
        return self.strings(count) if inner == _STRING else tuple(self.value(inner) for _ in range(count))

    def strings(self, count: int) -> tuple[str, ...]:
        """A vocabulary has a hundred thousand of them: no call for each."""
        data, at, end, length_at = self.data, self.at, len(self.data), struct.Struct("<Q").unpack_from
        found = []
        for _ in range(count):
            (length,) = length_at(data, at)
            if (stop := at + 8 + length) > end:
                raise struct.error("a string is longer than the file")
            found.append(data[at + 8 : stop].decode())
            at = stop
        self.at = at
        return tuple(found)


def open_gguf(path: Path) -> GgufFile:
    """Parses and checks the header. Raises BaseModelError naming the file and what is wrong with it."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(path, data)
    except (struct.error, UnicodeDecodeError, KeyError, OverflowError, MemoryError) as error:
        raise BaseModelError(f"{path}: the GGUF header is damaged ({error}).", hint=_AGAIN) from error
    except ValueError as error:
        raise BaseModelError(f"{path} is empty.", hint=_AGAIN) from error
    except OSError as error:
        raise BaseModelError(f"{path} cannot be read: {error.strerror}.", hint="Check the path.") from error


def _parse(path: Path, data: mmap.mmap) -> GgufFile:
    if data[:4] != b"GGUF":
        raise BaseModelError(f"{path} is not a GGUF file: it begins with {bytes(data[:4])!r}.", hint=_AGAIN)
    cursor = _Cursor(data)
    cursor.at = 4
    version = cursor.one("I")
    if version not in (2, 3):
        raise BaseModelError(f"{path} is GGUF version {version}.", hint="Versions 2 and 3, little-endian, are read.")
    tensor_count, pair_count = cursor.one("Q"), cursor.one("Q")
    metadata = {}
    for _ in range(pair_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.one("I"))
    found = [_tensor_line(cursor) for _ in range(tensor_count)]
    alignment = int(metadata.get("general.alignment", 32))
    begin = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in found:
        tensors[name] = stored = Stored(shape, kind, begin + offset, _size(path, name, shape, kind))
        if stored.start + stored.size > len(data):
            raise BaseModelError(
                f"{path} is cut short: tensor {name} ends at byte {stored.start + stored.size:,}, "
                f"the file has {len(data):,}.",
                hint=_AGAIN,
            )
    return GgufFile(path, metadata, tensors)


def _tensor_line(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    shape = tuple(cursor.one("Q") for _ in range(cursor.one("I")))
    return name, shape[::-1], cursor.one("I"), cursor.one("Q")


def _size(path: Path, name: str, shape: tuple[int, ...], kind: int) -> int:
    if kind not in _BLOCKS:
        raise BaseModelError(
            f"{path}: tensor {name} is of GGML type {kind}, which is not read.",
            hint="Use a file in Q4_0 to Q8_0, a K-quant, IQ4, BF16, F16 or F32.",
        )
    block, size = _BLOCKS[kind]
    if not shape or not all(shape) or shape[-1] % block:
        raise BaseModelError(f"{path}: tensor {name} has the impossible shape {list(shape)}.", hint=_AGAIN)
    return prod(shape) // block * size


# ------------------------------------------------------------------------------------------------------ the config
def read_config(file: GgufFile) -> DecoderConfig:
    """Raises BaseModelError for an architecture or a rope that is not supported, by name."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise BaseModelError(
            f"{file.path} holds a {architecture!r} model, which is not supported.",
            hint=f"Supported in GGUF: {', '.join(ARCHITECTURES)} (Llama, SmolLM2, Mistral, Qwen2, Qwen2.5, Qwen3).",
        )

    def value(key: str, default: Any = None) -> Any:
        found = file.metadata.get(f"{architecture}.{key}", default)
        if found is None:
            raise BaseModelError(f"{file.path} has no {architecture}.{key}.", hint=_AGAIN)
        return found

    if value("expert_count", 0):
        raise BaseModelError(f"{file.path} is a mixture of experts, which is not supported.", hint="Use a dense model.")
    heads, hidden = value("attention.head_count"), value("embedding_length")
    head_dim = value("attention.key_length", hidden // heads)
    if value("rope.dimension_count", head_dim) != head_dim:
        raise BaseModelError(f"{file.path} rotates only a part of each head, which is not supported.")
    window = value("attention.sliding_window", 0) or value("context_length")
    return DecoderConfig(
        architecture=architecture,
        vocab_size=_stored(file, "token_embd.weight").shape[0],
        hidden_size=hidden,
        num_layers=value("block_count"),
        num_heads=heads,
        num_kv_heads=value("attention.head_count_kv", heads),
        head_dim=head_dim,
        intermediate_size=value("feed_forward_length"),
        max_positions=min(value("context_length"), window),
        rms_eps=value("attention.layer_norm_rms_epsilon"),
        rope_theta=value("rope.freq_base", 10000.0),
        rope_scaling=_rope(file, architecture),
        tied_head="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        o_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
    )


def _stored(file: GgufFile, name: str) -> Stored:
    if name not in file.tensors:
        raise BaseModelError(f"{file.path} has no tensor {name}.", hint=_AGAIN)
    return file.tensors[name]


def _rope(file: GgufFile, architecture: str) -> dict[str, Any]:
    if "rope_freqs.weight" in file.tensors:
        return {"rope_type": "default", "frequency_factors": file.dequantise("rope_freqs.weight").tolist()}
    prefix = f"{architecture}.rope.scaling."
    given = {key.removeprefix(prefix): value for key, value in file.metadata.items() if key.startswith(prefix)}
    kind = given.get("type", "none")
    if kind == "none":
        return {}
    scaling: dict[str, Any] = {"rope_type": kind, "factor": given.get("factor", 1.0)}
    if kind == "yarn":
        length = file.metadata.get(f"{architecture}.context_length")
        scaling["original_max_position_embeddings"] = given.get("original_context_length", length)
        renamed = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
        scaling |= {theirs: given[own] for own, theirs in renamed.items() if own in given}
    if given.get("attn_factor", 1.0) != 1.0:
        raise BaseModelError(f"{file.path}: rope.scaling.attn_factor {given['attn_factor']} is not supported.")
    return scaling
