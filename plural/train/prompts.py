"""What the base makes of prompts: keys and values, computed once and kept for every epoch and every specialist.

An activated adapter leaves what comes before its invocation to the base, so those states never change while it is
trained. All prompts of a training are known when it begins: they are a tree of tokens, in which a token that has the
same tokens before it is one node, whoever's prompt it is in. Nodes that most prompts share get a place in memory first;
what finds none is computed again whenever it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plural.models.decoder import Decoder
from plural.train.attend import Places, RaggedAttend, Span


@dataclass(frozen=True)
class Held:
    """States of P tokens, held_PL2C; `fronts` says for each prompt which of them it is made of, `computed` how many
    tokens had to be computed for it.
    """

    states: Tensor | None
    fronts: tuple[Places, ...]
    computed: tuple[int, ...]


class PromptStates:
    """The only owner of kept states, in at most `memory` bytes. `prompts` are all that will ever be asked for."""

    def __init__(self, decoder: Decoder, prompts: Iterable[Sequence[int]], *, memory: int, at_once: int) -> None:
        self._decoder, self._at_once = decoder, at_once
        self._paths: dict[tuple[int, ...], Places] = {}
        tokens, counts = self._grow(prompts)
        self._tokens = np.array(tokens, np.int64)
        config = decoder.config
        self._shape = (config.num_layers, 2, config.num_kv_heads * config.head_dim)
        places = min(len(tokens), memory // (4 * int(np.prod(self._shape))))
        # A parent is in at least as many prompts as its children and older, so what has a place has all before it.
        first = np.argsort(-np.array(counts, np.int64), kind="stable")[:places]
        self._place = np.full(len(tokens), -1, np.int64)
        self._place[first] = np.arange(places)
        self._known = np.zeros(len(tokens), bool)
        self._kept = torch.empty(places, *self._shape, device=decoder.device)

    def _grow(self, prompts: Iterable[Sequence[int]]) -> tuple[list[int], list[int]]:
        """Each node's token, and in how many prompts it is."""
        tokens: list[int] = []
        counts: list[int] = []
        children: dict[tuple[int, int], int] = {}
        for prompt in prompts:
            key, node, path = tuple(prompt), -1, []
            for token in key:
                found = children.setdefault((node, token), len(tokens))
                if found == len(tokens):
                    tokens.append(token)
                    counts.append(0)
                counts[found] += 1
                path.append(found)
                node = found
            self._paths[key] = np.array(path, np.int64)
        return tokens, counts

    @torch.no_grad()
    def hold(self, prompts: Sequence[Sequence[int]]) -> Held:
        """The states of these prompts, in one tensor; whatever is not known is computed now."""
        paths = [self._paths[tuple(prompt)] for prompt in prompts]
        if not any(map(len, paths)):
            return Held(None, tuple(paths), (0,) * len(paths))
        nodes = np.unique(np.concatenate(paths))
        fronts = [np.searchsorted(nodes, path) for path in paths]
        held_PL2C = torch.empty(len(nodes), *self._shape, device=self._decoder.device)
        done = self._known[nodes]
        if done.any():
            kept = self._kept.index_select(0, torch.from_numpy(self._place[nodes[done]]).to(held_PL2C.device))
            held_PL2C[torch.from_numpy(done).to(held_PL2C.device)] = kept
        computed = [0] * len(paths)
        while not done.all():
            self._compute(nodes, fronts, held_PL2C, done, computed)
        return Held(held_PL2C, tuple(fronts), tuple(computed))

    def _compute(
        self, nodes: Places, fronts: Sequence[Places], held_PL2C: Tensor, done: np.ndarray, computed: list[int]
    ) -> None:
        """One pass over as much of what is missing as is computed at once, a prompt's missing end at a time."""
        where = np.arange(len(nodes))  # of each state: kept, or a token of this pass
        inside = done.copy()
        spans: list[Span] = []
        new: list[Places] = []
        count = 0
        for i, front in enumerate(fronts):
            start = int(inside[front].sum())
            missing = front[start:]
            if not len(missing) or (spans and count + len(missing) > self._at_once):
                continue
            spans.append(Span(count, len(missing), where[front[:start]]))
            where[missing] = len(nodes) + count + np.arange(len(missing))
            inside[missing] = True
            new.append(missing)
            computed[i] += len(missing)
            count += len(missing)
        places = np.concatenate(new)
        device = held_PL2C.device
        attend = _Keeping(RaggedAttend(spans, device, held_PL2C), held_PL2C, torch.from_numpy(places).to(device))
        ids = torch.from_numpy(self._tokens[nodes[places]]).to(device)
        self._decoder.hidden(ids, attend.inner.positions_T, attend)
        done[places] = True
        lasting = places[self._place[nodes[places]] >= 0]
        kept = torch.from_numpy(self._place[nodes[lasting]]).to(device)
        self._kept.index_copy_(0, kept, held_PL2C.index_select(0, torch.from_numpy(lasting).to(device)))
        self._known[nodes[lasting]] = True


class _Keeping:
    """Attends, and writes the pass's keys and values where they are kept."""

    def __init__(self, inner: RaggedAttend, held_PL2C: Tensor, into: Tensor) -> None:
        self.inner, self._held_PL2C, self._into = inner, held_PL2C, into

    def __call__(self, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        self._held_PL2C[self._into, layer] = torch.stack((k_TKD.flatten(1), v_TKD.flatten(1)), 1)
        return self.inner(layer, q_TND, k_TKD, v_TKD)
