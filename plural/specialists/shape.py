"""What an adapter must know of the base it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BaseShape:
    """`modules` are the linears of every layer by their Hugging Face names, each with its (inputs, outputs)."""

    digest: str
    num_layers: int
    modules: Mapping[str, tuple[int, int]]
