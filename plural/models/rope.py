"""Rotary position tables (RoFormer, arXiv 2104.09864) with the scalings that Hugging Face configs name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plural.errors import BaseModelError
from plural.models.config import DecoderConfig

SUPPORTED = ("default", "linear", "llama3", "yarn", "dynamic")


def rope_table(config: DecoderConfig) -> tuple[Tensor, Tensor]:
    """cos_PD and sin_PD in fp32 for every position the model can have."""
    frequency_D2, factor = _frequencies(config)
    angle_PD2 = torch.outer(torch.arange(config.max_positions, dtype=torch.float32), frequency_D2)
    angle_PD = torch.cat((angle_PD2, angle_PD2), dim=-1)
    return angle_PD.cos() * factor, angle_PD.sin() * factor


def _frequencies(config: DecoderConfig) -> tuple[Tensor, float]:
    """Radians a position, frequency_D2, and the factor on cos and sin, as transformers' `modeling_rope_utils` has them.

    `rope_scaling` is read as the config readers leave it: every length it needs is in it. `frequency_factors` is the
    GGUF form of llama3: what each frequency is divided by. Raises BaseModelError for a type that is not supported.
    """
    scaling = config.rope_scaling
    kind = scaling.get("rope_type", "default")
    if kind not in SUPPORTED:
        raise BaseModelError(f"Rope scaling {kind!r} is not supported.", hint=f"Supported: {', '.join(SUPPORTED)}.")
    exponent_D2 = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    wave_D2 = config.rope_theta**exponent_D2
    try:
        match kind:
            case "linear":
                return 1.0 / wave_D2 / float(scaling["factor"]), 1.0
            case "llama3":
                return _llama3(1.0 / wave_D2, scaling), 1.0
            case "yarn":
                return _yarn(wave_D2, config)
            case _:
                # Dynamic scaling stretches only what is longer than the model's own length, which is our limit.
                factors = scaling.get("frequency_factors")
                return 1.0 / wave_D2 / (torch.tensor(factors) if factors else 1.0), 1.0
    except KeyError as missing:
        raise BaseModelError(
            f"Rope scaling {kind!r} lacks {missing}.", hint="Complete the model's config."
        ) from missing


def _llama3(frequency_D2: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Long waves are slowed down by `factor`, short ones kept, those between blended."""
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(scaling["original_max_position_embeddings"])
    length_D2 = 2 * math.pi / frequency_D2
    slowed_D2 = torch.where(length_D2 > original / low, frequency_D2 / factor, frequency_D2)
    smooth_D2 = (original / length_D2 - low) / (high - low)
    blended_D2 = (1 - smooth_D2) * slowed_D2 / factor + smooth_D2 * slowed_D2
    between_D2 = ~(length_D2 < original / high) & ~(length_D2 > original / low)
    return torch.where(between_D2, blended_D2, slowed_D2)


def _yarn(wave_D2: Tensor, config: DecoderConfig) -> tuple[Tensor, float]:
    """YaRN (arXiv 2309.00071): fast dimensions keep their frequency, slow ones are interpolated, a ramp between."""
    scaling, dim = config.rope_scaling, config.head_dim
    original = float(scaling["original_max_position_embeddings"])
    factor = float(scaling["factor"])
    fast, slow = scaling.get("beta_fast") or 32, scaling.get("beta_slow") or 1

    def dimension(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = dimension(fast), dimension(slow)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high = high + 0.001 if low == high else high
    keep_D2 = 1 - ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    frequency_D2 = 1.0 / (factor * wave_D2) * (1 - keep_D2) + 1.0 / wave_D2 * keep_D2
    return frequency_D2, _yarn_attention(factor, scaling)


def _yarn_attention(factor: float, scaling: Mapping[str, Any]) -> float:
    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    given, scale, scale_all = (scaling.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim"))
    if given is not None:
        return float(given)
    return magnitude(scale) / magnitude(scale_all) if scale and scale_all else magnitude(1.0)
