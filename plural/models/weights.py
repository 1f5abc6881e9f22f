"""From tensors with Hugging Face names, whatever file they came from, to the decoder's fused weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from plural.errors import BaseModelError
from plural.models.config import GROUPS, PARENT, DecoderConfig, Group
from plural.models.decoder import DecoderWeights, LayerWeights

Read = Callable[[str], Tensor]
Progress = Callable[[str, float], None]

_GROUPS: tuple[Group, ...] = ("qkv", "o", "gate_up", "down")


def quiet(_what: str, _done: float) -> None:
    """The progress of those who did not ask for any."""


def expected_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor the architecture must have, by its Hugging Face name; linears are output-major there."""
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tied_head:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for i in range(config.num_layers):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        for group in _GROUPS:
            for module in GROUPS[group]:
                name = f"{layer}.{PARENT[module]}.{module}"
                shapes[f"{name}.weight"] = (config.out_features(module), config.in_features(module))
                if has_bias(config, group):
                    shapes[f"{name}.bias"] = (config.out_features(module),)
        if config.qk_norm:
            shapes[f"{layer}.self_attn.q_norm.weight"] = (config.head_dim,)
            shapes[f"{layer}.self_attn.k_norm.weight"] = (config.head_dim,)
    return shapes


def has_bias(config: DecoderConfig, group: Group) -> bool:
    return {"qkv": config.qkv_bias, "o": config.o_bias, "gate_up": config.mlp_bias, "down": config.mlp_bias}[group]


def check_shapes(config: DecoderConfig, found: Mapping[str, tuple[int, ...]], source: Path) -> None:
    """Raises BaseModelError naming the first missing or wrongly shaped tensor and how many there are."""
    expected = expected_shapes(config)
    missing = [name for name in expected if name not in found]
    if missing:
        raise BaseModelError(
            f"{source} lacks {len(missing)} of {len(expected)} tensors of {config.architecture}, first {missing[0]}.",
            hint="The file is not complete, or its config is of another model: fetch it again.",
        )
    for name, shape in expected.items():
        if tuple(found[name]) != shape:
            raise BaseModelError(
                f"{source}: {name} has shape {list(found[name])}, the config asks for {list(shape)}.",
                hint="Weights and config are of different models.",
            )


def fuse(config: DecoderConfig, read: Read, source: Path, progress: Progress = quiet) -> DecoderWeights:
    """Reads every tensor once, in fp32. Raises BaseModelError for NaN or infinity, which only damage leaves behind."""

    def checked(name: str) -> Tensor:
        tensor = read(name).to(torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            raise BaseModelError(
                f"{source}: {name} holds NaN or infinity.", hint="The file is damaged: fetch it again."
            )
        return tensor

    layers = []
    for i in range(config.num_layers):
        progress("preparing the base", i / config.num_layers)
        layers.append(_layer(config, checked, f"model.layers.{i}"))
    embed_VH = checked("model.embed_tokens.weight")
    head_VH = embed_VH if config.tied_head else checked("lm_head.weight")
    progress("preparing the base", 1.0)
    return DecoderWeights(embed_VH, tuple(layers), checked("model.norm.weight"), head_VH)


def _layer(config: DecoderConfig, read: Read, layer: str) -> LayerWeights:
    def linear(group: Group) -> Tensor:
        parts = [read(f"{layer}.{PARENT[module]}.{module}.weight") for module in GROUPS[group]]
        return torch.cat(parts)

    def bias(group: Group) -> Tensor | None:
        if not has_bias(config, group):
            return None
        return torch.cat([read(f"{layer}.{PARENT[module]}.{module}.bias") for module in GROUPS[group]])

    return LayerWeights(
        input_norm_H=read(f"{layer}.input_layernorm.weight"),
        qkv_OI=linear("qkv"),
        o_OI=linear("o"),
        post_norm_H=read(f"{layer}.post_attention_layernorm.weight"),
        gate_up_OI=linear("gate_up"),
        down_OI=linear("down"),
        qkv_bias_O=bias("qkv"),
        o_bias_O=bias("o"),
        gate_up_bias_O=bias("gate_up"),
        down_bias_O=bias("down"),
        q_norm_D=read(f"{layer}.self_attn.q_norm.weight") if config.qk_norm else None,
        k_norm_D=read(f"{layer}.self_attn.k_norm.weight") if config.qk_norm else None,
    )


def named(weights: DecoderWeights) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under the name it has in the cache. A tied head is the embedding and has none of its own."""
    yield "embed_VH", weights.embed_VH
    yield "norm_H", weights.norm_H
    if weights.head_VH.data_ptr() != weights.embed_VH.data_ptr():
        yield "head_VH", weights.head_VH
    for i, layer in enumerate(weights.layers):
        for name in (field.name for field in fields(LayerWeights)):
            tensor = getattr(layer, name)
            if tensor is not None:
                yield f"layers.{i}.{name}", tensor


def from_named(config: DecoderConfig, tensors: Mapping[str, Tensor]) -> DecoderWeights:
    """The inverse of `named`. Raises KeyError for a tensor that is not there."""
    required = {field.name for field in fields(LayerWeights) if field.default is not None}

    def layer(i: int) -> LayerWeights:
        found = {field.name: tensors.get(f"layers.{i}.{field.name}") for field in fields(LayerWeights)}
        absent = [name for name in required if found[name] is None]
        if absent:
            raise KeyError(f"layers.{i}.{absent[0]}")
        return LayerWeights(**found)  # type: ignore[arg-type]

    embed_VH = tensors["embed_VH"]
    head_VH = embed_VH if config.tied_head else tensors["head_VH"]
    return DecoderWeights(embed_VH, tuple(layer(i) for i in range(config.num_layers)), tensors["norm_H"], head_VH)


def move(weights: DecoderWeights, dtype: torch.dtype, device: torch.device) -> DecoderWeights:
    """The same weights elsewhere; tensors that are there already are not copied, a tied head stays tied."""
    tied = weights.head_VH.data_ptr() == weights.embed_VH.data_ptr()
    moved = {name: tensor.to(device=device, dtype=dtype) for name, tensor in named(weights)}
    layers = tuple(
        LayerWeights(**{field.name: moved.get(f"layers.{i}.{field.name}") for field in fields(LayerWeights)})  # type: ignore[arg-type]
        for i in range(len(weights.layers))
    )
    head_VH = moved["embed_VH"] if tied else moved["head_VH"]
    return DecoderWeights(moved["embed_VH"], layers, moved["norm_H"], head_VH)
