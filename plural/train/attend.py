"""Causal attention over rows that share what comes before them: every layer computes all rows in a few padded products.

A row's tokens attend to its front, which lies elsewhere (other tokens of the same pass, or states that were kept), and
to each other. Rows of like length are padded to one; that costs little, since attention is a few percent of a pass over
short rows, and a loop over rows would cost more. Nothing of the size of the scores is kept for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

Places = NDArray[np.int64]
NOWHERE: Places = np.empty(0, np.int64)

# Rows are padded together up to this much: longer by half, or by a few tokens. A GPU pads all: it computes a few rows
# as fast as many, and every bucket is some forty launches in every layer.
_LONGER, _FEW = 1.5, 8
# Scores (queries times keys) of one head and one bucket: bounds their memory at some 16 MB a head.
_MOST_SCORES = 1 << 22


@dataclass(frozen=True)
class Span:
    """A row's own tokens, T[start : start + length], and where its front lies: below P a state that was kept, from P on
    the token T[place - P] of this pass. Rows with one front hold the same array.
    """

    start: int
    length: int
    front: Places = field(default_factory=lambda: NOWHERE)


@dataclass(frozen=True)
class _Bucket:
    """B rows padded to n own tokens, whose F fronts are padded to c; a row's keys are front and own, S = c + n."""

    rows: int
    own_index: Tensor  # B*n into T; padding repeats the first token
    own_at: Tensor  # of those the real ones
    own_to: Tensor  # and their places in T
    front_index: Tensor  # F*c into held states, or into T where none are held
    front_of: Tensor | None  # B into F, unless every row has its own
    front_at: Tensor  # of F*c those that are tokens of this pass
    front_to: Tensor  # and their places in T
    mask_B11nS: Tensor
    front: int


class RaggedAttend:
    """The decoder's `Attend` for one pass. `held_LP2C` are keys and values that were kept, without a gradient."""

    def __init__(self, spans: Sequence[Span], device: torch.device, held_LP2C: Tensor | None = None) -> None:
        held = 0 if held_LP2C is None else held_LP2C.shape[1]
        self._held_LP2C = held_LP2C if held else None
        longer = _LONGER if device.type == "cpu" else math.inf
        self._buckets = [_bucket(each, held, device) for each in _alike(spans, longer)]
        ranges = [np.arange(len(span.front), len(span.front) + span.length) for span in spans]
        self.positions_T = torch.from_numpy(np.concatenate(ranges)).to(device)

    def __call__(self, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        held_P2C = None if self._held_LP2C is None else self._held_LP2C[layer]
        return _Attention.apply(q_TND, k_TKD, v_TKD, self._buckets, held_P2C)  # type: ignore[no-untyped-call, no-any-return]


def _alike(spans: Sequence[Span], longer: float) -> Iterator[list[Span]]:
    """Spans in buckets of like length, shortest first."""
    bucket: list[Span] = []
    front = 0
    for span in sorted(spans, key=lambda one: one.length):
        least, front = (bucket[0].length if bucket else span.length), max(front, len(span.front))
        too_long = span.length > max(longer * least, least + _FEW)
        too_many = (len(bucket) + 1) * span.length * (front + span.length) > _MOST_SCORES
        if bucket and (too_long or too_many):
            yield bucket
            bucket, front = [], len(span.front)
        bucket.append(span)
    yield bucket


def _bucket(spans: Sequence[Span], held: int, device: torch.device) -> _Bucket:
    n = max(span.length for span in spans)
    lengths = np.array([span.length for span in spans])
    starts = np.array([span.start for span in spans])
    real_Bn = np.arange(n) < lengths[:, None]
    own_Bn = np.where(real_Bn, starts[:, None] + np.arange(n), starts[0])
    fronts: dict[int, Span] = {}
    for span in spans:
        fronts.setdefault(id(span.front), span)
    number = {key: i for i, key in enumerate(fronts)}
    c = max(len(span.front) for span in spans)
    front_Fc = np.zeros((len(fronts), c), np.int64)
    real_Fc = np.zeros((len(fronts), c), bool)
    for i, span in enumerate(fronts.values()):
        front_Fc[i, : len(span.front)] = span.front
        real_Fc[i, : len(span.front)] = True
    front_of = np.array([number[id(span.front)] for span in spans])
    seen_BnS = np.concatenate(
        [
            np.broadcast_to(real_Fc[front_of][:, None], (len(spans), n, c)),
            np.broadcast_to(np.tri(n, dtype=bool), (len(spans), n, n)),
        ],
        axis=2,
    )
    mask_BnS = np.where(seen_BnS, np.float32(0), np.float32(-np.inf))
    front_at = np.flatnonzero(real_Fc & (front_Fc >= held))
    front_to = front_Fc.ravel()[front_at] - held
    if held:
        front_Fc.ravel()[front_at] = 0  # any, for what is then written over

    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return _Bucket(
        rows=len(spans),
        own_index=tensor(own_Bn.ravel()),
        own_at=tensor(np.flatnonzero(real_Bn)),
        own_to=tensor(own_Bn[real_Bn]),
        front_index=tensor(front_Fc.ravel()),
        front_of=tensor(front_of) if len(fronts) < len(spans) else None,
        front_at=tensor(front_at),
        front_to=tensor(front_to),
        mask_B11nS=tensor(mask_BnS)[:, None, None],
        front=c,
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, buckets: list[_Bucket], held_P2C: Tensor | None
    ) -> Tensor:
        out_TND = torch.empty_like(q_TND, memory_format=torch.contiguous_format)
        kv_T2KD = torch.stack((k_TKD, v_TKD), 1)
        for bucket in buckets:
            probability, _, _, v_bSD = _probabilities(bucket, q_TND, kv_T2KD, held_P2C)
            out_bMD = torch.bmm(probability, v_bSD)
            out_TND.index_copy_(0, bucket.own_to, _rows(bucket, out_bMD, q_TND).index_select(0, bucket.own_at))
        ctx.save_for_backward(q_TND, kv_T2KD)
        ctx.buckets, ctx.held_P2C = buckets, held_P2C
        return out_TND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TND: Tensor) -> tuple[Tensor | None, ...]:
        q_TND, kv_T2KD = ctx.saved_tensors
        grad_q_TND = torch.empty_like(q_TND, memory_format=torch.contiguous_format)
        grad_kv_T2KD = torch.empty_like(kv_T2KD)
        shared: list[tuple[Tensor, Tensor]] = []
        for bucket in ctx.buckets:
            probability, q_bMD, k_bSD, v_bSD = _probabilities(bucket, q_TND, kv_T2KD, ctx.held_P2C)
            padded = grad_TND.new_zeros(len(bucket.own_index), *grad_TND.shape[1:])
            padded.index_copy_(0, bucket.own_at, grad_TND.index_select(0, bucket.own_to))
            grad_bMD = _heads(bucket, padded, kv_T2KD.shape[2])
            grad_v_bSD = torch.bmm(probability.transpose(1, 2), grad_bMD)
            grad_p = torch.bmm(grad_bMD, v_bSD.transpose(1, 2))
            grad_s = torch._softmax_backward_data(grad_p, probability, -1, torch.float32)
            # q_bMD carries the scale; the gradient of q needs it once more.
            grad_k_bSD = torch.bmm(grad_s.transpose(1, 2), q_bMD)
            grad_q_bMD = torch.bmm(grad_s, k_bSD).mul_(q_TND.shape[2] ** -0.5)
            rows_q = _rows(bucket, grad_q_bMD, q_TND).index_select(0, bucket.own_at)
            grad_q_TND.index_copy_(0, bucket.own_to, rows_q)
            shared += _add_kv(bucket, torch.stack((grad_k_bSD, grad_v_bSD)), grad_kv_T2KD)
        for to, grad in shared:
            grad_kv_T2KD.index_copy_(0, to, grad_kv_T2KD.index_select(0, to).add_(grad))
        return grad_q_TND, grad_kv_T2KD[:, 0], grad_kv_T2KD[:, 1], None, None


def _add_kv(bucket: _Bucket, grad_2bSD: Tensor, grad_kv_T2KD: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Writes what belongs to own tokens; returns what is to be added to tokens of fronts, once all are written."""
    rows, c = bucket.rows, bucket.front
    heads, width = grad_kv_T2KD.shape[2:]
    grad_BS2KD = grad_2bSD.view(2, rows, heads, -1, width).permute(1, 3, 0, 2, 4)
    own = grad_BS2KD[:, c:].reshape(-1, 2, heads, width).index_select(0, bucket.own_at)
    grad_kv_T2KD.index_copy_(0, bucket.own_to, own)
    if not len(bucket.front_to):
        return []
    fronts = len(bucket.front_index) // c
    sum_Fc = grad_BS2KD[:, :c]
    if bucket.front_of is not None:
        sum_Fc = grad_2bSD.new_zeros(fronts, c, 2, heads, width).index_add_(0, bucket.front_of, sum_Fc)
    return [(bucket.front_to, sum_Fc.reshape(-1, 2, heads, width).index_select(0, bucket.front_at))]


def _probabilities(
    bucket: _Bucket, q_TND: Tensor, kv_T2KD: Tensor, held_P2C: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Softmax over the keys, [B*K, G*n, S], then the scaled queries and the keys and values it is made of."""
    _, _, heads, width = kv_T2KD.shape
    padded_kv = kv_T2KD.index_select(0, bucket.own_index).view(bucket.rows, -1, 2, heads, width)
    if bucket.front:
        source = kv_T2KD if held_P2C is None else held_P2C.view(-1, 2, heads, width)
        fronts = source.index_select(0, bucket.front_index)
        if held_P2C is not None and len(bucket.front_at):
            fronts.index_copy_(0, bucket.front_at, kv_T2KD.index_select(0, bucket.front_to))
        fronts = fronts.view(-1, bucket.front, 2, heads, width)
        if bucket.front_of is not None:
            fronts = fronts.index_select(0, bucket.front_of)
        padded_kv = torch.cat((fronts, padded_kv), 1)
    keys = padded_kv.shape[1]
    k_bSD, v_bSD = padded_kv.permute(2, 0, 3, 1, 4).reshape(2, bucket.rows * heads, keys, width)
    q_bMD = _heads(bucket, q_TND.index_select(0, bucket.own_index).mul_(width**-0.5), heads)
    scores = torch.bmm(q_bMD, k_bSD.transpose(1, 2))
    own = keys - bucket.front
    scores.view(bucket.rows, heads, -1, own, keys).add_(bucket.mask_B11nS)
    return torch.softmax(scores, -1), q_bMD, k_bSD, v_bSD


def _heads(bucket: _Bucket, x_xND: Tensor, heads: int) -> Tensor:
    """B*n rows of N heads to B*K products of G*n queries: the heads that share keys lie under each other."""
    _, count, width = x_xND.shape
    own = len(bucket.own_index) // bucket.rows
    split = x_xND.view(bucket.rows, own, heads, count // heads, width)
    return split.permute(0, 2, 3, 1, 4).reshape(bucket.rows * heads, -1, width)


def _rows(bucket: _Bucket, x_bMD: Tensor, like_TND: Tensor) -> Tensor:
    """The inverse of `_heads`."""
    count, width = like_TND.shape[1:]
    heads = len(x_bMD) // bucket.rows
    split = x_bMD.view(bucket.rows, heads, count // heads, -1, width)
    return split.permute(0, 3, 1, 2, 4).reshape(-1, count, width)
