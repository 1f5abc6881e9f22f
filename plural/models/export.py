"""A base as a directory in Hugging Face's layout, for engines that read nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from plural.errors import BaseModelError
from plural.models.base import Base
from plural.models.config import GROUPS, PARENT


def write_huggingface(base: Base, folder: Path) -> Path:
    """A Llama directory with the base's weights in fp32, exactly those that our engine multiplies with, and its
    tokenizer. Returns `folder`. Raises BaseModelError for another architecture."""
    config = base.config
    if config.architecture not in ("llama", "LlamaForCausalLM") or config.rope_scaling.get("rope_type") not in (
        None,
        "default",
    ):
        raise BaseModelError(
            f"{base.name} is {config.architecture}; only a plain Llama can be handed to another engine.",
            hint="Give the base as a Hugging Face directory.",
        )
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
