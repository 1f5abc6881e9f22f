"""Rows of many specialists in one pass over the base: packed flat, computed once, a loss for each specialist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plural.models.decoder import Decoder
from plural.train.attend import NOWHERE, Places, RaggedAttend, Span
from plural.train.compute import answer_losses
from plural.train.lora import Lora, SegmentedDelta
from plural.train.prompts import PromptStates
from plural.train.rows import Row

# A beginning that rows share is computed once where it has at least so many tokens.
_LEAST_SHARED = 4
# Kept states of prompts take memory, too, but no computing: so many may lie beside every token of a pass.
_HELD_FOR_EACH = 4


class Work(NamedTuple):
    """Rows of one specialist, of which so many `together` are never parted."""

    lora: Lora
    rows: Sequence[Row]
    together: int = 1


@dataclass(frozen=True)
class Part:
    """Rows of one specialist, as many of its batch as fit."""

    lora: Lora
    rows: Sequence[Row]
    number: int
    together: int = 1

    def alike(self) -> Iterator[Sequence[Row]]:
        """The rows that may have a beginning in common: all, or the answers to one prompt."""
        width = self.together if self.together > 1 else len(self.rows)
        return (self.rows[i : i + width] for i in range(0, len(self.rows), width))


@dataclass(frozen=True)
class PartLoss:
    """Of each of the part's answer tokens, in nats; `computed` tokens went through the decoder for it."""

    part: Part
    loss_A: Tensor
    computed: int


def packs(work: Sequence[Work], at_once: int) -> Iterator[list[Part]]:
    """The rows in their order, in as few passes as `at_once` tokens allow; a longer row is a pass of its own."""
    pack: list[Part] = []
    tokens = held = 0
    for number, (lora, rows, together) in enumerate(work):
        first = 0
        for i in range(0, len(rows), together):
            unit = rows[i : i + together]
            acting, before = sum(len(row.acting) for row in unit), sum(len(row.before) for row in unit)
            full = tokens + acting > at_once or held + before > _HELD_FOR_EACH * at_once
            if full and (pack or i > first):
                yield [*pack, *([Part(lora, rows[first:i], number, together)] if i > first else [])]
                pack, first, tokens, held = [], i, 0, 0
            tokens += acting
            held += before
        if first < len(rows):
            pack.append(Part(lora, rows[first:], number, together))
    if pack:
        yield pack


class Flat:
    """The tokens of a pack, one after another: ids_T, a span for each row, the length of each part's segment."""

    def __init__(self, parts: Sequence[Part], fronts: Sequence[Places], held: int) -> None:
        self.ids: list[int] = []
        self.spans: list[Span] = []
        self.segments: list[int] = []
        self.at: list[int] = []
        self.following: list[int] = []
        self.answers: list[int] = []
        self._held = held
        before = iter(fronts)
        for part in parts:
            start, learned = len(self.ids), len(self.at)
            for rows in part.alike():
                shared = _shared(rows)
                beginning = self._begin(rows[0].ids[:shared]) if shared else NOWHERE
                for row in rows:
                    front = next(before)
                    self._add(row, front if row.offset else beginning, shared)
            self.segments.append(len(self.ids) - start)
            self.answers.append(len(self.at) - learned)

    def _begin(self, ids: Sequence[int]) -> Places:
        """A beginning that rows of a part share: a row of its own, and the front of theirs."""
        start = len(self.ids)
        self.spans.append(Span(start, len(ids)))
        self.ids += ids
        return self._held + start + np.arange(len(ids))

    def _add(self, row: Row, front: Places, shared: int) -> None:
        first, start = row.offset + shared, len(self.ids)
        self.spans.append(Span(start, row.targets[-1] - first, front))
        self.ids += row.acting[shared:]
        self.at += (start + place - first - 1 for place in row.targets)
        self.following += (row.ids[place] for place in row.targets)


def _shared(rows: Sequence[Row]) -> int:
    """How many tokens all rows begin with, before anything is learned: the adapter reads them alike in all."""
    if len(rows) < 2 or any(row.offset for row in rows):
        return 0
    low, high = min(row.ids for row in rows), max(row.ids for row in rows)
    most = min(row.targets[0] - 1 for row in rows)
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    found = max(0, min(same, most))
    return found if found >= _LEAST_SHARED else 0


def losses(decoder: Decoder, prompts: PromptStates, parts: Sequence[Part]) -> list[PartLoss]:
    """The losses of each part, from one pass over the base; under no_grad for those who only look."""
    rows = [row for part in parts for row in part.rows]
    held = prompts.hold([row.before for row in rows])
    flat = Flat(parts, held.fronts, 0 if held.states is None else held.states.shape[1])
    device = decoder.device
    attend = RaggedAttend(flat.spans, device, held.states)
    delta = SegmentedDelta([(part.lora, segment) for part, segment in zip(parts, flat.segments, strict=True)])
    x_TH = decoder.hidden(torch.tensor(flat.ids, device=device), attend.positions_T, attend, delta)
    at, following = (torch.tensor(each, device=device) for each in (flat.at, flat.following))
    loss_A = answer_losses(x_TH, at, decoder.weights.head_VH, following)
    found: list[PartLoss] = []
    computed = iter(held.computed)
    for part, loss, tokens in zip(parts, loss_A.split(flat.answers), flat.segments, strict=True):
        read = sum(next(computed) for _ in part.rows)
        found.append(PartLoss(part, loss, tokens + read))
    return found


def backward(found: Sequence[PartLoss], objectives: Sequence[Tensor]) -> None:
    """Adds the gradient of what each part's losses amount to, to that of the earlier passes of the step."""
    torch.stack(list(objectives)).sum().backward()
    for one in found:
        one.part.lora.stale = False
