"""Rotary position tables (RoFormer, arXiv 2104.09864) with the scalings that Hugging Face configs name."""

from __future__ import annotations

import math

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
    raise NotImplementedError  # the models helper writes this
