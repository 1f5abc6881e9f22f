"""Who answers a request: softmax regression on the request's embedding, learnt from example prompts of each label.

The probabilities are calibrated: strength of the penalty and temperature are chosen by cross-validation, on examples
that the fit had not seen (Guo et al. 2017, arXiv 1706.04599). Everything is deterministic and takes no random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

_PENALTIES = (1e-4, 1e-3, 1e-2)
_FOLDS = 5
_TEMPERATURES = np.geomspace(0.05, 20.0, 61)
# Held-out examples are few, and none of them is far from all others: a router is never surer than they can show.
_SURE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """L labels on vectors of width D: `weights` (L, D) and `bias` (L) act on a unit vector of which `centre` (D) was
    taken and which was divided by `scale`, so that the examples have zero mean and unit spread."""

    labels: tuple[str, ...]
    weights: Array
    bias: Array
    centre: Array
    scale: float
    temperature: float
    threshold: float

    @classmethod
    def fit(cls, vectors: Mapping[str, Sequence[Sequence[float]]], *, threshold: float = 0.5) -> Self:
        """Learns from example vectors of each label; "base" is one of them. Every label weighs the same.

        `threshold`: a best label less probable than this is not taken, the base answers.

        Raises:
            DataError: fewer than two labels, no "base", a label with one example, or vectors that are damaged.
            SettingsError: a threshold outside [0, 1).
        """
        if not 0 <= threshold < 1:
            raise SettingsError(f"threshold is {threshold!r}; it must be in [0, 1).")
        labels = tuple(sorted(vectors))
        x_ND, y_N = _examples(vectors, labels)
        counts_L = np.bincount(y_N)
        importance_N = 1.0 / (len(labels) * counts_L[y_N])
        centre_D = importance_N @ x_ND
        x_ND = x_ND - centre_D
        scale = float(np.sqrt(importance_N @ (x_ND**2).sum(axis=1))) or 1.0
        x_ND /= scale
        # All that the examples say lies in their span, of width R: the same problem, smaller when they are few.
        u_NR, s_R, span_RD = np.linalg.svd(x_ND, full_matrices=False)
        x_NR = u_NR * s_R
        penalty, temperature = _calibrate(x_NR, y_N, importance_N, _folds(y_N, min(_FOLDS, int(counts_L.min()))))
        weights_LR, bias_L = _fit(x_NR, y_N, importance_N, len(labels), penalty)
        return cls(labels, weights_LR @ span_RD, bias_L, centre_D, scale, temperature, threshold)

    def route_vector(self, vector: Sequence[float]) -> Decision[str]:
        """The label with its probability, and every label's, most probable first. Under the threshold: the base.

        Raises:
            SettingsError: a vector of another width, zero, or with values that are no numbers.
        """
        x_D = np.asarray(vector, dtype=np.float64)
        if x_D.shape != self.centre.shape:
            raise SettingsError(f"The router reads vectors of {len(self.centre)} numbers, got {x_D.shape}.")
        length = float(np.linalg.norm(x_D))
        if not np.isfinite(length) or length == 0:
            raise SettingsError("The request's vector is zero or not finite.", hint="The embedder is at fault.")
        x_D = (x_D / length - self.centre) / self.scale
        p_L = _softmax((self.weights @ x_D + self.bias) / self.temperature)
        p_L = (1 - _SURE) * p_L + _SURE / len(p_L)
        ranked = tuple(Option(self.labels[i], float(p_L[i])) for i in np.argsort(-p_L, kind="stable"))
        chosen = ranked[0]
        if chosen.probability < self.threshold:
            chosen = next(option for option in ranked if option.value == BASE)
        return Decision(chosen.value, chosen.probability, ranked)

    async def route(self, text: str, embedder: Embedder) -> Decision[str]:
        """Reads the request with the base and decides."""
        (vector,) = await embedder.aembed([text])
        return self.route_vector(vector)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` gives the same router back."""
        return {
            "labels": list(self.labels),
            "weights": self.weights.tolist(),
            "bias": self.bias.tolist(),
            "centre": self.centre.tolist(),
            "scale": self.scale,
            "temperature": self.temperature,
            "threshold": self.threshold,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """Raises DataError when `saved` is not what `to_dict` writes."""
        try:
            labels = tuple(str(label) for label in saved["labels"])
            weights_LD, bias_L, centre_D = (np.asarray(saved[key], float) for key in ("weights", "bias", "centre"))
            scale, temperature, threshold = (float(saved[key]) for key in ("scale", "temperature", "threshold"))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("saved router", [(0, f"damaged: {error}")], hint="Delete it; it is made again.") from error
        if weights_LD.shape != (len(labels), len(centre_D)) or bias_L.shape != (len(labels),):
            raise DataError("saved router", [(0, "its parts do not fit")], hint="Delete it; it is made again.")
        return cls(labels, weights_LD, bias_L, centre_D, scale, temperature, threshold)


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


def _calibrate(x_NR: Array, y_N: Numbers, importance_N: Array, fold_N: Numbers) -> tuple[float, float]:
    """The (penalty, temperature) with the least log loss on held-out folds."""
    labels = int(y_N.max()) + 1
    tried: list[tuple[float, float, float]] = []
    for penalty in _PENALTIES:
        logits_NL = np.empty((len(y_N), labels))
        for fold in np.unique(fold_N):
            held = fold_N == fold
            weight = importance_N[~held] / importance_N[~held].sum()
            weights_LR, bias_L = _fit(x_NR[~held], y_N[~held], weight, labels, penalty)
            logits_NL[held] = x_NR[held] @ weights_LR.T + bias_L
        for temperature in _TEMPERATURES:
            p_NL = (1 - _SURE) * _softmax(logits_NL / temperature) + _SURE / labels
            loss = -float(importance_N @ np.log(p_NL[np.arange(len(y_N)), y_N]))
            tried.append((loss, penalty, float(temperature)))
    _, penalty, temperature = min(tried)
    return penalty, temperature


def _fit(x_NR: Array, y_N: Numbers, weight_N: Array, labels: int, penalty: float) -> tuple[Array, Array]:
    """Softmax regression: weights (L, R) and bias (L) of least weighted log loss plus penalty/2 of squared weights."""
    z_NS = np.column_stack([x_NR, np.ones(len(x_NR))])
    target_NL = np.eye(labels)[y_N]
    ridge_S = np.full(z_NS.shape[1], penalty)
    ridge_S[-1] = penalty * 1e-3  # the bias is all but free; its sum over labels would otherwise be undetermined

    def loss(flat: Array) -> tuple[float, Array]:
        theta_SL = flat.reshape(-1, labels)
        logits_NL = z_NS @ theta_SL
        logits_NL -= logits_NL.max(axis=1, keepdims=True)
        log_p_NL = logits_NL - np.log(np.exp(logits_NL).sum(axis=1, keepdims=True))
        value = -(weight_N @ (log_p_NL * target_NL).sum(axis=1)) + 0.5 * (ridge_S @ theta_SL**2).sum()
        slope_SL = z_NS.T @ ((np.exp(log_p_NL) - target_NL) * weight_N[:, None]) + ridge_S[:, None] * theta_SL
        return float(value), slope_SL.ravel()

    theta_SL = _minimise(loss, np.zeros(z_NS.shape[1] * labels)).reshape(-1, labels)
    return theta_SL[:-1].T, theta_SL[-1]


def _minimise(loss: Callable[[Array], tuple[float, Array]], x: Array, memory: int = 12, rounds: int = 200) -> Array:
    """L-BFGS with backtracking (Nocedal and Wright, algorithm 7.4) for a smooth convex loss."""
    value, slope = loss(x)
    steps: list[tuple[Array, Array]] = []
    for _ in range(rounds):
        if np.abs(slope).max() < 1e-5:
            break
        direction = -_inverse_hessian_times(slope, steps)
        length, expected = 1.0, float(slope @ direction)
        while True:
            ahead = x + length * direction
            next_value, next_slope = loss(ahead)
            if next_value <= value + 1e-4 * length * expected:
                break
            length /= 2
            if length < 1e-10:
                return x  # the slope is rounding error by now
        moved, turned = ahead - x, next_slope - slope
        if moved @ turned > 1e-14:
            steps = [*steps, (moved, turned)][-memory:]
        x, value, slope = ahead, next_value, next_slope
    return x


def _inverse_hessian_times(slope: Array, steps: Sequence[tuple[Array, Array]]) -> Array:
    result = slope.copy()
    shares: list[float] = []
    for moved, turned in reversed(steps):
        shares.append(float(moved @ result) / float(moved @ turned))
        result -= shares[-1] * turned
    if steps:
        moved, turned = steps[-1]
        result *= float(moved @ turned) / float(turned @ turned)
    for (moved, turned), share in zip(steps, reversed(shares), strict=True):
        result += moved * (share - float(turned @ result) / float(moved @ turned))
    return result


def _softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))
