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
    """Keys and values of tokens, states_LP2C; `fronts` says for each prompt which of the P it is made of, `computed`
    how many tokens had to be computed for it. They stand until the next prompts are held.
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
        c = decoder.config
        width = c.num_kv_heads * c.head_dim
        places = min(len(tokens), memory // (4 * c.num_layers * 2 * width))
        # A parent is in at least as many prompts as its children and older, so what has a place has all before it.
        first = np.argsort(-np.array(counts, np.int64), kind="stable")[:places]
        self._place = np.full(len(tokens), -1, np.int64)
        self._place[first] = np.arange(places)
        self._known = np.zeros(len(tokens), bool)
        self._kept_LP2C = _room(torch.empty(c.num_layers, places, 2, width, device=decoder.device))

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
        own = [np.searchsorted(nodes, path) for path in paths]
        done, at = self._known[nodes], self._place[nodes]
        lasting = at >= 0
        states_LP2C = self._kept_LP2C
        if not lasting.all():  # all of them beside what is kept, with a copy of it
            states_LP2C = _room(states_LP2C.new_empty(len(states_LP2C), len(nodes), *states_LP2C.shape[2:]))
            self._copy(self._kept_LP2C, at[done], states_LP2C, np.flatnonzero(done))
            at = np.arange(len(nodes))
        new = lasting & ~done
        computed = [0] * len(paths)
        while not done.all():
            self._compute(nodes, own, states_LP2C, at, done, computed)
        if states_LP2C is not self._kept_LP2C:
            self._copy(states_LP2C, at[new], self._kept_LP2C, self._place[nodes[new]])
        self._known[nodes[new]] = True
        return Held(states_LP2C, tuple(at[each] for each in own), tuple(computed))

    @staticmethod
    def _copy(from_LP2C: Tensor, which: Places, to_LP2C: Tensor, where: Places) -> None:
        device = to_LP2C.device
        chosen = from_LP2C.index_select(1, torch.from_numpy(which).to(device))
        to_LP2C.index_copy_(1, torch.from_numpy(where).to(device), chosen)

    def _compute(
        self,
        nodes: Places,
        paths: Sequence[Places],
        states_LP2C: Tensor,
        at: Places,
        done: np.ndarray,
        computed: list[int],
    ) -> None:
        """One pass over as much of what is missing as is computed at once, a prompt's missing end at a time."""
        where = at.copy()  # of each state: held, or a token of this pass
        inside = done.copy()
        spans: list[Span] = []
        new: list[Places] = []
        count = 0
        for i, path in enumerate(paths):
            start = int(inside[path].sum())
            missing = path[start:]
            if not len(missing) or (spans and count + len(missing) > self._at_once):
                continue
            spans.append(Span(count, len(missing), where[path[:start]]))
            where[missing] = states_LP2C.shape[1] + count + np.arange(len(missing))
            inside[missing] = True
            new.append(missing)
            computed[i] += len(missing)
            count += len(missing)
        found = np.concatenate(new)
        device = states_LP2C.device
        into = torch.from_numpy(at[found]).to(device)
        attend = _Keeping(RaggedAttend(spans, device, states_LP2C), states_LP2C, into)
        ids = torch.from_numpy(self._tokens[nodes[found]]).to(device)
        self._decoder.hidden(ids, attend.inner.positions_T, attend)
        done[found] = True


def _room(empty_LP2C: Tensor) -> Tensor:
    """For states that are not there yet. Padding reads the first one, masked; what lay in memory may be no number."""
    empty_LP2C[:, :1] = 0
    return empty_LP2C


class _Keeping:
    """Attends, and writes the pass's keys and values where they are held."""

    def __init__(self, inner: RaggedAttend, states_LP2C: Tensor, into: Tensor) -> None:
        self.inner, self._states_LP2C, self._into = inner, states_LP2C, into

    def __call__(self, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        made_T2C = torch.stack((k_TKD.flatten(1), v_TKD.flatten(1)), 1)
        self._states_LP2C[layer].index_copy_(0, self._into, made_T2C)
        return self.inner(layer, q_TND, k_TKD, v_TKD)
