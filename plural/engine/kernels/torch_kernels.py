"""The reference kernels: plain torch, any device and dtype.

How rows are kept independent of their company, in fp32 on a CPU (tests/engine/test_invariance.py holds the products to
the bit, and attention to 1e-5: torch.bmm adds in an order that depends on its sizes):

- A matrix product of one row takes another path than one of several, and on AMD's processors so does each number of
  rows that is not a multiple of four; rows are filled up with zeros to one that is.
- A product adds its K terms in an order that depends on the number of rows where weights lie output-major, and where K
  is large. So an engine lays its linears out input-major, and a large K is cut into fixed pieces, added in turn.
- Attention pads keys at the end only. A masked key has probability exactly 0 and adds exactly 0; the rows of softmax
  are whole vector registers long, so that a longer padding only adds zeros to the same partial sums.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from plural.engine.kernels.interface import AdapterWeights, Forward, Packed, Result, Segment, Span
from plural.engine.kernels.pages import Pages, Parcel, Piece, ranks_in_a_page
from plural.engine.page_pool import NULL_PAGE
from plural.errors import NumericError
from plural.models.config import GROUPS, DecoderConfig, Group
from plural.models.decoder import Attend, Decoder, Delta
from plural.models.ops import TorchOps

# A product over more terms than this is cut into pieces of K_PIECE.
K_WHOLE = 768
K_PIECE = 512
# Rows are filled up with zeros to a multiple of this: a product of fewer takes another path.
ROW_STEP = 4
# Ranks are filled up with zeros to a multiple of this: a product of one column takes another path than a wider one.
RANK_STEP = 4
# Rows of one sequence that are attended together: bounds the scores' memory and the work above the diagonal.
TILE = 64


def product(x_TI: Tensor, w_IO: Tensor) -> Tensor:
    """x_TI @ w_IO, every row computed in the same way whatever T is. `w_IO` lies input-major in memory."""
    rows, terms = x_TI.shape
    if rows % ROW_STEP:
        x_TI = pad(x_TI, (0, 0, 0, -rows % ROW_STEP))
    if terms <= K_WHOLE:
        y_TO = torch.mm(x_TI, w_IO)
    else:
        y_TO = torch.mm(x_TI[:, :K_PIECE], w_IO[:K_PIECE])
        for at in range(K_PIECE, terms, K_PIECE):
            y_TO.addmm_(x_TI[:, at : at + K_PIECE], w_IO[at : at + K_PIECE])
    return y_TO[:rows]


def summed_up(states_TH: Tensor, logits_RV: Tensor) -> Result:
    """Row by row; two rows of logits at least, since torch adds up a single long row in another order."""
    rows = len(logits_RV)
    if not rows:
        return Result(states_TH, _finite(states_TH), logits_RV, (), ())
    totals_R = torch.logsumexp(torch.cat([logits_RV] * 2) if rows == 1 else logits_RV, dim=-1)[:rows]
    totals = [total if fine else math.nan for total, fine in zip(totals_R.tolist(), _finite(logits_RV), strict=True)]
    best_R = logits_RV.argmax(dim=-1)
    logit_R = logits_RV.gather(1, best_R[:, None])[:, 0]
    return Result(states_TH, _finite(states_TH), logits_RV, totals, best_R.tolist(), logit_R.tolist())


def _finite(x_TN: Tensor) -> list[bool]:
    return torch.isfinite(x_TN.sum(dim=-1)).tolist()


class TorchKernels(TorchOps):
    """Implements `Kernels`. Holds no state."""

    def linear(self, x_TI: Tensor, w_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        y_TO = product(x_TI, w_OI.T)
        return y_TO if bias_O is None else y_TO + bias_O

    def pack(self, config: DecoderConfig, weights: AdapterWeights, page_bytes: int, dtype: torch.dtype) -> Parcel:
        return _parcel(config, weights, page_bytes, dtype)

    def place(self, parcel: Parcel, memory: Pages, pages: Sequence[int]) -> Packed:
        places = zip(parcel.lay(memory, pages), parcel.pieces, strict=True)
        laid = iter([memory.view(*at, piece.array.shape, piece.dtype) for at, piece in places])
        return PackedAdapter(tuple((where, PackedGroup(next(laid), next(laid))) for where in parcel.handle))

    def moved(self, packed: Packed, memory: Pages, to: Mapping[int, int]) -> Packed:
        def there(part: Tensor) -> Tensor:
            page, start = memory.locate(part.data_ptr())
            return memory.view(to[page], start, part.shape, part.dtype)

        groups = ((where, PackedGroup(there(group.a_IR), there(group.b_RO))) for where, group in packed.groups)
        return PackedAdapter(tuple(groups))

    def forward(self, decoder: Decoder, vocabulary: int | None = None, kept: Path | None = None) -> Forward:
        weights = decoder.weights
        if decoder.device.type == "cpu":
            weights = weights.map_linears(lambda w_OI: w_OI.T.contiguous().T)
        decoder = Decoder(decoder.config, weights, self)

        def step(
            ids: Sequence[int],
            positions: Sequence[int],
            wanted: Sequence[int],
            memory: Pages,
            spans: Sequence[Span],
            segments: Sequence[Segment],
        ) -> Result:
            attend, delta = self.bind(memory, spans, segments)
            ids_T, positions_T, rows_R = (
                torch.tensor(each, dtype=torch.long, device=decoder.device) for each in (ids, positions, wanted)
            )
            states_TH = decoder.hidden(ids_T, positions_T, attend, delta)
            if wanted:
                logits_RV = decoder.logits(states_TH[rows_R]).float()
            else:
                logits_RV = states_TH.new_empty((0, decoder.config.vocab_size), dtype=torch.float32)
            return summed_up(states_TH, logits_RV[:, :vocabulary])

        return step

    def bind(self, memory: Pages, spans: Sequence[Span], segments: Sequence[Segment]) -> tuple[Attend, Delta | None]:
        """What the decoder calls in every layer of one step. All index arithmetic is done here, once."""
        return PagedAttention(memory, spans), LoraDelta(segments) if segments else None


# ------------------------------------------------------------------------------------------------------ adapters
@dataclass(frozen=True, slots=True)
class PackedGroup:
    """The adapted modules of one fused group, or some of their ranks. The ranks R are those of its modules, one after
    another, then zeros. `b_RO` is block-diagonal over the group's fused outputs and has the adapter's scale in it.
    """

    a_IR: Tensor
    b_RO: Tensor


@dataclass(frozen=True, slots=True)
class PackedAdapter:
    """A group is in it several times when its ranks do not fit in one page."""

    groups: tuple[tuple[tuple[int, Group], PackedGroup], ...]


def finite(weights: AdapterWeights, layer: int, module: str) -> None:
    """Raises NumericError when the module's weights hold NaN or infinity."""
    if not all(map(_all_finite, weights.tensors[layer, module])):
        raise NumericError(
            f"Adapter {weights.digest[:12]} has NaN or infinity in layer {layer}, {module}.", hint="Train it again."
        )


def _all_finite(array: np.ndarray[Any, Any]) -> bool:
    if array.dtype == np.float16:  # an exponent of all ones is NaN or infinity; isfinite takes twice as long
        return bool((array.view(np.uint16) & 0x7C00).max(initial=0) < 0x7C00)
    return bool(np.isfinite(array).all())


def _parcel(config: DecoderConfig, weights: AdapterWeights, page_bytes: int, dtype: torch.dtype) -> Parcel:
    pieces: list[Piece] = []
    handle: list[tuple[int, Group]] = []
    for layer, group in itertools.product(range(config.num_layers), GROUPS):
        present = [module for module in GROUPS[group] if (layer, module) in weights.tensors]
        if not present:
            continue
        for module in present:
            finite(weights, layer, module)
        widest = max(config.slices(group)[present[-1]].stop, config.in_features(present[0]))
        room = ranks_in_a_page(page_bytes, widest * dtype.itemsize, RANK_STEP * len(present)) // len(present)
        for first in range(0, max(len(weights.tensors[layer, module][0]) for module in present), room):
            ranks = slice(first, first + room)
            pieces += (Piece(array, dtype) for array in _pack_group(config, weights, layer, group, ranks))
            handle.append((layer, group))
    return Parcel.of(pieces, page_bytes, tuple(handle))


def _pack_group(
    config: DecoderConfig, weights: AdapterWeights, layer: int, group: Group, ranks: slice
) -> tuple[np.ndarray, np.ndarray]:
    """The `ranks` of each of the group's modules, as a_IR and b_RO of a PackedGroup."""
    slices = config.slices(group)
    pairs = {
        module: (a_RI[ranks], b_OR[:, ranks])
        for module in GROUPS[group]
        for a_RI, b_OR in [weights.tensors.get((layer, module), (None, None))]
        if a_RI is not None and b_OR is not None
    }
    width = -(-sum(len(a_RI) for a_RI, _ in pairs.values()) // RANK_STEP) * RANK_STEP
    a_IR = np.zeros((config.in_features(GROUPS[group][0]), width), np.float32)
    b_RO = np.zeros((width, max(slices[module].stop for module in pairs)), np.float32)
    row = 0
    for module, (a_RI, b_OR) in pairs.items():
        a_IR[:, row : row + len(a_RI)] = a_RI.T
        b_RO[row : row + len(a_RI), slices[module]] = b_OR.T * np.float32(weights.scale_of(module, layer))
        row += len(a_RI)
    return a_IR, b_RO


class LoraDelta:
    """Two small products for every adapter in the step; rows of an adapter lie next to each other."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._parts: dict[tuple[int, Group], list[tuple[Segment, PackedGroup]]] = {}
        for segment in segments:
            for where, packed in segment.packed.groups:
                self._parts.setdefault(where, []).append((segment, packed))

    def __call__(self, layer: int, group: Group, x_TI: Tensor, y_TO: Tensor) -> Tensor:
        for segment, packed in self._parts.get((layer, group), ()):
            low_TR = product(x_TI[segment.start : segment.stop], packed.a_IR)
            if segment.scale != 1.0:
                low_TR = low_TR * segment.scale
            # A group may end with a module that is not adapted.
            y_TO[segment.start : segment.stop, : packed.b_RO.shape[1]] += product(low_TR, packed.b_RO)
        return y_TO


# ------------------------------------------------------------------------------------------------------ attention
@dataclass(frozen=True, slots=True)
class _Tile:
    """B pieces of C rows each, every one with its own keys, padded to N.

    `rows` are their rows in the step, b by b; `pages` their block tables, b by b; `mask_BCN` is 0 or minus infinity.
    """

    rows: Tensor
    pages: Tensor
    mask_BCN: Tensor


class PagedAttention:
    """Writes the step's keys and values, then attends tile by tile."""

    def __init__(self, memory: Pages, spans: Sequence[Span]) -> None:
        device, size = memory.kv.device, memory.page_size
        pages, slots = [], []
        grouped: dict[tuple[int, int], list[tuple[int, int, Sequence[int]]]] = {}
        for span in spans:
            positions = np.arange(span.length - (span.stop - span.start), span.length)
            pages.append(np.asarray(span.pages)[positions // size])
            slots.append(positions % size)
            for start in range(span.start, span.stop, TILE):
                stop = min(start + TILE, span.stop)
                length = span.length - (span.stop - stop)
                key = (stop - start, _roomy(-(-length // size)))
                grouped.setdefault(key, []).append((start, length, span.pages))
        self._kv_PL2KSD = memory.kv
        self._pages_T, self._slots_T = (torch.from_numpy(np.concatenate(each)).to(device) for each in (pages, slots))
        self._tiles = [_tile(rows, held, pieces, size, device) for (rows, held), pieces in grouped.items()]

    def __call__(self, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        keys_PKSD, values_PKSD = self._kv_PL2KSD[:, layer, 0], self._kv_PL2KSD[:, layer, 1]
        keys_PKSD[self._pages_T, :, self._slots_T] = k_TKD
        values_PKSD[self._pages_T, :, self._slots_T] = v_TKD
        out_TND = torch.empty_like(q_TND)
        for tile in self._tiles:
            out_TND[tile.rows] = _attend(q_TND[tile.rows], keys_PKSD, values_PKSD, tile)
        return out_TND


def _roomy(pages: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, ...: sequences of about the same length are attended together."""
    power = 1 << (pages - 1).bit_length()
    return power * 3 // 4 if power >= 4 and pages <= power * 3 // 4 else power


def _tile(
    count: int, pages: int, pieces: Sequence[tuple[int, int, Sequence[int]]], size: int, device: torch.device
) -> _Tile:
    rows_BC = np.array([start for start, _, _ in pieces])[:, None] + np.arange(count)
    table_BP = np.full((len(pieces), pages), NULL_PAGE)
    for line, (_, length, held) in zip(table_BP, pieces, strict=True):
        used = -(-length // size)
        line[:used] = held[:used]
    last_BC = np.array([length for _, length, _ in pieces])[:, None] - count + np.arange(count)
    mask_BCN = np.where(np.arange(pages * size) <= last_BC[..., None], np.float32(0), np.float32(-np.inf))
    rows, table, mask = (torch.from_numpy(a).to(device) for a in (rows_BC.ravel(), table_BP.ravel(), mask_BCN))
    return _Tile(rows, table, mask)


def _attend(q_MND: Tensor, keys_PKSD: Tensor, values_PKSD: Tensor, tile: _Tile) -> Tensor:
    """q_MND holds B pieces of C rows, M = B * C. Heads of one KV head (G of them) become rows of one product."""
    b, c, n = tile.mask_BCN.shape
    k, d = keys_PKSD.shape[1], keys_PKSD.shape[3]
    q_BCKGD = q_MND.view(b, c, k, -1, d)
    g = q_BCKGD.shape[3]
    q_XRD = (q_BCKGD.permute(2, 0, 1, 3, 4) * d**-0.5).reshape(k * b, c * g, d)
    if c * g == 1:
        q_XRD = q_XRD.expand(k * b, 2, d)
    # Gathered head by head, so that a sequence's tokens lie one after another.
    keys_XND, values_XND = (
        cache.transpose(0, 1)[:, tile.pages].reshape(k * b, n, d) for cache in (keys_PKSD, values_PKSD)
    )
    scores_XRN = torch.bmm(q_XRD, keys_XND.transpose(1, 2))
    if c * g == 1:
        scores_XRN += tile.mask_BCN.repeat(k, 1, 1)
    else:
        scores_XRN.view(k, b, c, g, n).add_(tile.mask_BCN.unsqueeze(2))
    weights_XRN = torch.softmax(scores_XRN, dim=-1)
    mixed_XRD = torch.bmm(weights_XRN[:, :, :K_PIECE], values_XND[:, :K_PIECE])
    for at in range(K_PIECE, n, K_PIECE):
        mixed_XRD.baddbmm_(weights_XRN[:, :, at : at + K_PIECE], values_XND[:, at : at + K_PIECE])
    return mixed_XRD[:, : c * g].reshape(k, b, c, g, d).permute(1, 2, 0, 3, 4).reshape(b * c, k * g, d)
