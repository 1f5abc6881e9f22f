"""The shape of a decoder of the Llama family, read once from a model's files and never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Group = Literal["qkv", "o", "gate_up", "down"]

# The seven linears of a layer, by their Hugging Face names, in the four fused groups the decoder computes.
GROUPS: dict[Group, tuple[str, ...]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
MODULES: tuple[str, ...] = tuple(module for modules in GROUPS.values() for module in modules)
# Where each linear lives in a Hugging Face layer; PEFT's tensor names are made of these.
PARENT: dict[str, str] = {m: "self_attn" if m in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp" for m in MODULES}


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes: V vocabulary, H hidden, L layers, N query heads, K key/value heads, D head width, I MLP width."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    rms_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] = field(default_factory=dict)
    tied_head: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    def in_features(self, module: str) -> int:
        if module == "o_proj":
            return self.num_heads * self.head_dim
        return self.intermediate_size if module == "down_proj" else self.hidden_size

    def out_features(self, module: str) -> int:
        match module:
            case "q_proj":
                return self.num_heads * self.head_dim
            case "k_proj" | "v_proj":
                return self.num_kv_heads * self.head_dim
            case "gate_proj" | "up_proj":
                return self.intermediate_size
            case _:
                return self.hidden_size

    def slices(self, group: Group) -> dict[str, slice]:
        """Where each module's outputs lie in its group's fused output."""
        found: dict[str, slice] = {}
        start = 0
        for module in GROUPS[group]:
            found[module] = slice(start, start + self.out_features(module))
            start += self.out_features(module)
        return found
