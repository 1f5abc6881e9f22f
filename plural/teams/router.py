"""Who answers a request: linear discriminants on the request's states, learnt from example prompts of each label.

States of one label scatter about their mean, and all labels' in much the same way: in the space where that scatter is
the same in every direction, the nearest mean is the likeliest label (Fisher's discriminant, with the scatter shrunk
towards a sphere as far as cross-validation wants it). The probabilities are calibrated: their temperature is chosen on
examples that the fit had not seen (Guo et al. 2017, arXiv 1706.04599).

Who plans is asked already when that is not unlikely (`_PLANNED`): a plan for one task costs its tokens, one task done
of two costs an answer.

A request that is further from its label's mean than all but `_AWAY` of that label's own unseen examples is nobody's,
whatever the probabilities say (the distance of Lee et al. 2018, arXiv 1807.03888, with the threshold of split conformal
prediction). Everything is deterministic and takes no random numbers.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from plural.errors import DataError, SettingsError
from plural.protocols import Embedder
from plural.types import Decision, Option

Array = NDArray[np.float64]
Numbers = NDArray[np.intp]
BASE = "base"

_SHRINKAGES = (0.02, 0.05, 0.1, 0.2, 0.5, 0.9)
_FOLDS = 5
_TEMPERATURES = np.geomspace(0.05, 400.0, 91)
# Held-out examples are few, and none of them is far from all others: a router is never surer than they can show.
_SURE = 1e-3
# A request that somebody is for goes to a planner from this probability of its being compound on.
_PLANNED = 0.2
# So many of a label's own requests are taken for nobody's because they are far. With fewer than 33 examples none is.
_AWAY = 0.03


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """L labels on vectors of width D. A unit vector of which `centre` (D) was taken is brought by `whitening` (D, D) to
    where the labels' means are `weights` (L, D), with `bias` (L); from the squared distance `reach` (L) of its mean on
    a request is nobody's."""

    labels: tuple[str, ...]
    weights: Array
    bias: Array
    centre: Array
    whitening: NDArray[np.float32]
    reach: Array
    temperature: float
    threshold: float
    planners: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls, vectors: Mapping[str, Sequence[Sequence[float]]], *, threshold: float = 0.5, planners: Sequence[str] = ()
    ) -> Self:
        """Learns from example vectors of each label; "base" is one of them. Every label weighs the same.

        `threshold`: a best label less probable than this is not taken, the base answers. At 0 it never abstains.
        `planners` are the labels of those requests that are made of several.

        Raises:
            DataError: fewer than two labels, no "base", a label with one example, or vectors that are damaged.
            SettingsError: a threshold outside [0, 1), or a planner that is no label.
        """
        if not 0 <= threshold < 1:
            raise SettingsError(f"threshold is {threshold!r}; it must be in [0, 1).")
        if unknown := [one for one in planners if one not in vectors]:
            raise SettingsError(
                f"The planner {unknown[0]!r} is no label of the router.", hint=f"It has {list(vectors)!r}."
            )
        labels = tuple(sorted(vectors))
        x_ND, y_N = _examples(vectors, labels)
        shrinkage, temperature, reach_L = _calibrate(x_ND, y_N, _folds(y_N, min(_FOLDS, int(np.bincount(y_N).min()))))
        space = _Space.of(x_ND, y_N)
        whitening_DD = space.whitening(shrinkage)
        means_LD = (space.means_LD - space.centre_D) @ whitening_DD
        bias_L = -0.5 * (means_LD**2).sum(axis=1)
        small_DD = whitening_DD.astype(np.float32)
        about = (labels, means_LD, bias_L, space.centre_D, small_DD, reach_L, temperature, threshold)
        return cls(*about, tuple(planners))

    def route_vector(self, vector: Sequence[float]) -> Decision[str]:
        """The label with its probability, and every label's, most probable first. Too unsure or too far: the base. A
        planner need not be the most probable.

        Raises:
            SettingsError: a vector of another width, zero, or with values that are no numbers.
        """
        x_D = np.asarray(vector, dtype=np.float64)
        if x_D.shape != self.centre.shape:
            raise SettingsError(f"The router reads vectors of {len(self.centre)} numbers, got {x_D.shape}.")
        length = float(np.linalg.norm(x_D))
        if not np.isfinite(length) or length == 0:
            raise SettingsError("The request's vector is zero or not finite.", hint="The embedder is at fault.")
        z_D = (x_D / length - self.centre).astype(np.float32) @ self.whitening
        logits_L = self.weights @ z_D + self.bias
        p_L = (1 - _SURE) * _softmax(logits_L / self.temperature) + _SURE / len(self.labels)
        ranked = tuple(Option(self.labels[i], float(p_L[i])) for i in np.argsort(-p_L, kind="stable"))
        chosen, best = ranked[0], int(p_L.argmax())
        far = float(z_D @ z_D) - 2 * logits_L[best] > self.reach[best]
        if self.threshold and (far or chosen.probability < self.threshold):
            chosen = next(option for option in ranked if option.value == BASE)
        elif chosen.value != BASE:
            chosen = next((one for one in ranked if one.value in self.planners and one.probability >= _PLANNED), chosen)
        return Decision(chosen.value, chosen.probability, ranked)

    async def route(self, text: str, embedder: Embedder) -> Decision[str]:
        """Reads the request with the base and decides."""
        (vector,) = await embedder.aembed([text])
        return self.route_vector(vector)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` gives the same router back."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        single = {"temperature": self.temperature, "threshold": self.threshold}
        return {"labels": list(self.labels), "planners": list(self.planners), **arrays, **single}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """Raises DataError when `saved` is not what `to_dict` writes."""
        try:
            labels = tuple(str(label) for label in saved["labels"])
            weights_LD, bias_L, centre_D, whitening_DD, reach_L = (np.asarray(saved[key], float) for key in _ARRAYS)
            temperature, threshold = (float(saved[key]) for key in ("temperature", "threshold"))
            planners = tuple(str(label) for label in saved["planners"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("saved router", [(0, f"damaged: {error}")], hint="Delete it; it is made again.") from error
        count, width = len(labels), len(centre_D)
        shapes = (weights_LD.shape, bias_L.shape, whitening_DD.shape, reach_L.shape)
        if shapes != ((count, width), (count,), (width, width), (count,)):
            raise DataError("saved router", [(0, "its parts do not fit")], hint="Delete it; it is made again.")
        small_DD = whitening_DD.astype(np.float32)
        return cls(labels, weights_LD, bias_L, centre_D, small_DD, reach_L, temperature, threshold, planners)


_ARRAYS = ("weights", "bias", "centre", "whitening", "reach")


def without(decision: Decision[str], barred: Container[str]) -> Decision[str]:
    """The same, or the best of the other options; the probabilities are kept as they were."""
    if decision.value not in barred:
        return decision
    best = next(option for option in decision.options if option.value not in barred)
    return Decision(best.value, best.probability, decision.options)


@dataclass(frozen=True, slots=True)
class _Space:
    """Means of the labels, and how examples scatter about them: along `axes_DD` by the variances `spread_D`. `size` is
    the mean variance of all about the centre."""

    centre_D: Array
    means_LD: Array
    spread_D: Array
    axes_DD: Array
    size: float

    @classmethod
    def of(cls, x_ND: Array, y_N: Numbers) -> Self:
        counts_L = np.bincount(y_N)
        importance_N = 1.0 / (len(counts_L) * counts_L[y_N])
        centre_D = importance_N @ x_ND
        means_LD = np.stack([x_ND[y_N == label].mean(axis=0) for label in range(len(counts_L))])
        off_ND = x_ND - means_LD[y_N]
        spread_D, axes_DD = np.linalg.eigh((off_ND * importance_N[:, None]).T @ off_ND)
        size = float(importance_N @ ((x_ND - centre_D) ** 2).mean(axis=1))
        return cls(centre_D, means_LD, spread_D.clip(min=0), axes_DD, size or 1.0)

    def whitening(self, shrinkage: float) -> Array:
        """(D, D), to the right of a row."""
        return np.asarray(self.axes_DD / np.sqrt((1 - shrinkage) * self.spread_D + shrinkage * self.size))


def _examples(vectors: Mapping[str, Sequence[Sequence[float]]], labels: Sequence[str]) -> tuple[Array, Numbers]:
    """Unit vectors (N, D) and their labels' numbers (N), every problem named."""
    few = [label for label in labels if len(vectors[label]) < 2]
    problems = [(0, f"{label!r} has {len(vectors[label])} examples, at least 2 are needed") for label in few]
    widths = sorted({len(vector) for rows in vectors.values() for vector in rows})
    if len(labels) < 2:
        problems.append((0, f"got the labels {list(labels)!r}, at least 2 are needed"))
    if BASE not in vectors:
        problems.append((0, f"no examples for {BASE!r}, what nobody is a specialist for"))
    if len(widths) > 1:
        problems.append((0, f"vectors of different lengths: {widths}"))
    if problems:
        raise DataError("router examples", problems, hint="No router was made.")
    x_ND = np.array([vector for label in labels for vector in vectors[label]], dtype=np.float64)
    y_N = np.repeat(np.arange(len(labels)), [len(vectors[label]) for label in labels])
    length_N = np.linalg.norm(x_ND, axis=1)
    bad = np.flatnonzero(~np.isfinite(length_N) | (length_N == 0))
    if len(bad):
        raise DataError(
            "router examples", [(0, f"{labels[y_N[i]]!r} has a vector that is zero or not finite") for i in bad]
        )
    return x_ND / length_N[:, None], y_N


def _folds(y_N: Numbers, folds: int) -> Numbers:
    """Each label's examples dealt out in turn, so that every fold has every label."""
    fold_N = np.empty_like(y_N)
    for label in np.unique(y_N):
        mine = np.flatnonzero(y_N == label)
        fold_N[mine] = np.arange(len(mine)) % folds
    return fold_N


def _calibrate(x_ND: Array, y_N: Numbers, fold_N: Numbers) -> tuple[float, float, Array]:
    """The shrinkage and the temperature with the least log loss on held-out folds, and every label's reach there."""
    counts_L = np.bincount(y_N)
    labels, rows = len(counts_L), np.arange(len(y_N))
    importance_N = 1.0 / (labels * counts_L[y_N])
    logits = {shrinkage: np.empty((len(y_N), labels)) for shrinkage in _SHRINKAGES}
    away = {shrinkage: np.empty(len(y_N)) for shrinkage in _SHRINKAGES}
    for fold in np.unique(fold_N):
        held = fold_N == fold
        space = _Space.of(x_ND[~held], y_N[~held])
        for shrinkage in _SHRINKAGES:
            whitening_DD = space.whitening(shrinkage)
            z_MD = (x_ND[held] - space.centre_D) @ whitening_DD
            means_LD = (space.means_LD - space.centre_D) @ whitening_DD
            logits[shrinkage][held] = z_MD @ means_LD.T - 0.5 * (means_LD**2).sum(axis=1)
            away[shrinkage][held] = ((z_MD - means_LD[y_N[held]]) ** 2).sum(axis=1)
    tried = []
    for shrinkage in _SHRINKAGES:
        for temperature in _TEMPERATURES:
            p_NL = (1 - _SURE) * _softmax(logits[shrinkage] / temperature) + _SURE / labels
            loss = -float(importance_N @ np.log(p_NL[rows, y_N]))
            tried.append((loss, shrinkage, float(temperature)))
    _, shrinkage, temperature = min(tried)
    return shrinkage, temperature, np.array([_reach(away[shrinkage][y_N == label]) for label in range(labels)])


def _reach(away_M: Array) -> float:
    """What all but `_AWAY` of distances such as these stay below, as far as so many can tell."""
    place = int(np.ceil((len(away_M) + 1) * (1 - _AWAY)))
    return float(np.sort(away_M)[place - 1]) if place <= len(away_M) else float("inf")


def _softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))
