"""LoRA weights (Hu et al., arXiv 2106.09685) and what PEFT's config says about them, without any file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from plural.errors import SpecialistError

Array = NDArray[np.float16] | NDArray[np.float32]

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def module_path(layer: int, module: str) -> str:
    """Where a linear lives in a Hugging Face model of the Llama family; PEFT's targets and patterns match on this."""
    return f"model.layers.{layer}.{'self_attn' if module in _ATTENTION else 'mlp'}.{module}"


@dataclass(frozen=True)
class AdapterConfig:
    """`targets` are ends of module paths ("q_proj", "layers.3.mlp.up_proj"); patterns are PEFT's regular expressions.

    An update is scale * x @ A.T @ B.T, with scale alpha / rank, or alpha / sqrt(rank) under rsLoRA (arXiv 2312.03732).
    With `invocation` tokens the adapter is activated (aLoRA, arXiv 2504.12397): it acts from where they begin.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    invocation: tuple[int, ...] = ()

    def covers(self, layer: int, module: str) -> bool:
        return f".{module_path(layer, module)}".endswith(self._ends)

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        return tuple(f".{target}" for target in self.targets)

    def rank_of(self, layer: int, module: str) -> int:
        key = _pattern_key(self.rank_pattern, module_path(layer, module))
        return self.rank if key is None else self.rank_pattern[key]

    def scale_of(self, layer: int, module: str) -> float:
        key = _pattern_key(self.alpha_pattern, module_path(layer, module))
        alpha = self.alpha if key is None else self.alpha_pattern[key]
        rank = self.rank_of(layer, module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _pattern_key(patterns: Iterable[str], path: str) -> str | None:
    """The first pattern that matches `path` or its end, as PEFT's `get_pattern_key` does."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", path)), None)


def invoked_at(ids: Sequence[int], invocation: Sequence[int]) -> int | None:
    """Where the last `invocation` in `ids` begins: there PEFT lets the adapter begin, too. None if there is none."""
    width = len(invocation)
    starts = range(len(ids) - width, -1, -1)
    return next((at for at in starts if tuple(ids[at : at + width]) == tuple(invocation)), None)


@dataclass(frozen=True)
class AdapterWeights:
    """`tensors` maps (layer, module) to (a_RI, b_OR), before the scale, float16 where it is stored so, else float32.

    A layer or module may be absent. The arrays may lie in a file that is mapped: who has looked at them calls `check`,
    which raises SpecialistError when it was written to.
    """

    digest: str
    config: AdapterConfig
    tensors: Mapping[tuple[int, str], tuple[Array, Array]]
    check: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)

    def scale_of(self, module: str, layer: int | None = None) -> float:
        """The factor on B @ A. Without `layer` it is the one that all layers share.

        Raises SpecialistError if `layer` is not given and an alpha or rank pattern makes the layers differ.
        """
        if layer is not None:
            return self.config.scale_of(layer, module)
        scales = {self.config.scale_of(i, name) for i, name in self.tensors if name == module}
        if len(scales) != 1:
            found = ", ".join(f"{scale:g}" for scale in sorted(scales)) or "none"
            raise SpecialistError(
                f"{module} has no single scale over the layers: {found}.", hint="Ask for it by layer."
            )
        return scales.pop()
