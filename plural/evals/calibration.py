"""Do probabilities mean what they say? The expected calibration error, and the temperature that makes it small.

Both after Guo et al. 2017 (arXiv 1706.04599). `plural.agents.decide(..., temperature=t)` applies a fitted temperature.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plural.errors import DataError

_RANGE = (1e-2, 1e2)
_ROUNDS = 60


def calibration_error(probabilities: Sequence[float], right: Sequence[bool], *, bins: int = 10) -> float:
    """Over `bins` equal parts of [0, 1]: how far the share of right answers is from the mean probability, weighted by
    how many answers fall into each.

    Raises:
        DataError: nothing to count, lists of different lengths, or a probability outside [0, 1].
    """
    p_N, right_N = np.asarray(probabilities, np.float64), np.asarray(right, np.float64)
    if not len(p_N) or p_N.shape != right_N.shape:
        raise DataError(
            "calibration", [(0, f"{len(p_N)} probabilities and {len(right_N)} verdicts")], hint="Nothing was measured."
        )
    if wrong := [float(p) for p in p_N if not 0 <= p <= 1]:
        raise DataError(
            "calibration", [(0, f"the probability {wrong[0]} is not in [0, 1]")], hint="Nothing was measured."
        )
    bin_N = np.minimum((p_N * bins).astype(int), bins - 1)
    gap_B = np.abs(np.bincount(bin_N, p_N - right_N, minlength=bins))
    return float(gap_B.sum() / len(p_N))


def fit_temperature(decisions: Sequence[Sequence[float]], right: Sequence[int]) -> float:
    """The temperature that makes the right options most probable. Of each decision: its options' probabilities, and
    which of them was right. Found between 0.01 and 100; with all right and certain it is the least, and the other way
    round.

    Raises:
        DataError: no decisions, another number of verdicts, or a verdict that is no option.
    """
    if not decisions or len(decisions) != len(right):
        raise DataError(
            "calibration", [(0, f"{len(decisions)} decisions and {len(right)} verdicts")], hint="Nothing was measured."
        )
    for number, (options, which) in enumerate(zip(decisions, right, strict=True), start=1):
        if not 0 <= which < len(options):
            raise DataError(
                "calibration", [(number, f"option {which} of {len(options)}")], hint="Nothing was measured."
            )
    logs = [np.log(np.maximum(np.asarray(options, np.float64), np.finfo(np.float64).tiny)) for options in decisions]

    def slope(log_temperature: float) -> float:
        """Has the sign of the log loss's slope over the temperature, and grows with it: the loss is convex in 1 / T."""
        sharp = np.exp(-log_temperature)
        return float(sum(l_K[which] - _softmax(sharp * l_K) @ l_K for l_K, which in zip(logs, right, strict=True)))

    low, high = np.log(_RANGE[0]), np.log(_RANGE[1])
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if slope(middle) >= 0:
            high = middle
        else:
            low = middle
    return float(np.exp((low + high) / 2))


def _softmax(logits_K: NDArray[np.float64]) -> NDArray[np.float64]:
    e_K = np.exp(logits_K - logits_K.max())
    return np.asarray(e_K / e_K.sum())
