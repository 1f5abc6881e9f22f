"""Records the decoder's forward pass as a program: instructions over buffers, for kernels that run a step in one call.

The decoder is written once, in models/decoder.py. Here it runs a single time on values that compute nothing; what it
asks of them is written down in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from plural.models.config import GROUPS, MODULES, DecoderConfig, Group
from plural.models.decoder import Decoder


class Op(IntEnum):
    """In the order of native/plural_kernels.h."""

    EMBED = 0
    NORM = 1
    LINEAR = 2
    HEADS = 3
    ATTEND = 4
    ADD = 5
    SILU_MUL = 6


@dataclass
class Instruction:
    """`first` and `second` are the tensors it reads besides buffers. A LINEAR of `modules` > 0 may be adapted."""

    op: Op
    to: Value
    a: Value | None = None
    b: Value | None = None
    first: Tensor | None = None
    second: Tensor | None = None
    layer: int = 0
    module: int = 0
    modules: int = 0

    @property
    def reads(self) -> list[Value]:
        return [value for value in (self.a, self.b) if value is not None]


@dataclass(eq=False)
class Value:
    """Stands for a tensor of `width` columns, and does what a decoder does with tensors by itself."""

    recorder: Recorder
    width: int
    buffer: int = -1

    def __add__(self, other: Value) -> Value:
        return self.recorder.emit(Op.ADD, self.width, self, other)

    def flatten(self, start: int) -> Value:
        del start  # heads lie side by side already
        return self


@dataclass
class Recorder:
    """Implements `Ops`, `Attend` and `Delta` on values."""

    config: DecoderConfig
    code: list[Instruction] = field(default_factory=list)

    def emit(
        self,
        op: Op,
        width: int,
        a: Value | None = None,
        b: Value | None = None,
        first: Tensor | None = None,
        second: Tensor | None = None,
    ) -> Value:
        to = Value(self, width)
        self.code.append(Instruction(op, to, a, b, first, second))
        return to

    def embed(self, table_VH: Tensor, ids_T: Any) -> Any:
        del ids_T  # a step brings its own
        return self.emit(Op.EMBED, table_VH.shape[1], first=table_VH)

    def angles(self, cos_PD: Tensor, sin_PD: Tensor, positions_T: Any, dtype: torch.dtype) -> Any:
        return None  # looked up by the step's positions

    def rms_norm(self, x_TH: Any, weight_H: Tensor, eps: float) -> Any:
        return self.emit(Op.NORM, x_TH.width, x_TH, first=weight_H)

    def linear(self, x_TI: Any, w_OI: Tensor, bias_O: Tensor | None = None) -> Any:
        return self.emit(Op.LINEAR, w_OI.shape[0], x_TI, first=w_OI, second=bias_O)

    def heads(
        self, config: DecoderConfig, qkv_TO: Any, q_norm_D: Tensor | None, k_norm_D: Tensor | None, angles: Any
    ) -> Any:
        """Works in place: q, k and v stay where they are, side by side in one buffer."""
        self.code.append(Instruction(Op.HEADS, qkv_TO, qkv_TO, None, q_norm_D, k_norm_D))
        return qkv_TO, qkv_TO, qkv_TO

    def silu_mul(self, gate_up_TI2: Any) -> Any:
        return self.emit(Op.SILU_MUL, gate_up_TI2.width // 2, gate_up_TI2)

    def attend(self, layer: int, q_TND: Any, k_TKD: Any, v_TKD: Any) -> Any:
        self.code[-1].layer = layer  # the HEADS before it, which fills that layer's cache
        mixed = self.emit(Op.ATTEND, self.config.num_heads * self.config.head_dim, q_TND)
        self.code[-1].layer = layer
        return mixed

    def delta(self, layer: int, group: Group, x_TI: Any, y_TO: Any) -> Any:
        linear = self.code[-1]
        linear.layer, linear.module, linear.modules = layer, MODULES.index(GROUPS[group][0]), len(GROUPS[group])
        return y_TO


@dataclass(frozen=True)
class Recorded:
    """`widths` are the columns of each buffer; `states` is the buffer that holds the final states at the end."""

    code: tuple[Instruction, ...]
    widths: tuple[int, ...]
    states: int


def record(decoder: Decoder) -> Recorded:
    recorder = Recorder(decoder.config)
    nothing: Any = None
    states: Any = type(decoder)(decoder.config, decoder.weights, recorder).hidden(
        nothing, nothing, recorder.attend, recorder.delta
    )
    return Recorded(tuple(recorder.code), _place(recorder.code, states), states.buffer)


def _place(code: list[Instruction], states: Value) -> tuple[int, ...]:
    """Gives every value a buffer of its width that nobody needs any more."""
    last = {id(value): at for at, one in enumerate(code) for value in (*one.reads, one.to)}
    last[id(states)] = len(code)
    widths: list[int] = []
    free: dict[int, list[int]] = {}
    for at, one in enumerate(code):
        if one.to.buffer < 0:
            if not free.get(one.to.width):
                free.setdefault(one.to.width, []).append(len(widths))
                widths.append(one.to.width)
            one.to.buffer = free[one.to.width].pop()
        for value in {id(value): value for value in one.reads}.values():
            if last[id(value)] == at:
                free.setdefault(value.width, []).append(value.buffer)
    return tuple(widths)
