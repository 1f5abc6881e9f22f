"""Calibration: errors that are known by construction are found, and temperature scaling takes them away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plural.errors import DataError
from plural.evals import calibration_error, fit_temperature


@pytest.mark.parametrize(
    ("said", "right", "error"),
    [
        ([1.0] * 4, [True] * 4, 0.0),
        ([1.0] * 4, [False] * 4, 1.0),
        ([0.75] * 4, [True, True, True, False], 0.0),
        ([0.95] * 10, [True] * 5 + [False] * 5, 0.45),
        # Two bins of two: |0.15 - 0.5| and |0.9 - 1|, each half of all.
        ([0.15, 0.15, 0.9, 0.9], [True, False, True, True], 0.225),
    ],
)
def test_known_errors(said: list[float], right: list[bool], error: float) -> None:
    assert calibration_error(said, right) == pytest.approx(error)


def test_bins_hide_what_cancels_out_in_them() -> None:
    said, right = [0.1, 0.9], [True, False]
    assert calibration_error(said, right, bins=1) == pytest.approx(0)
    assert calibration_error(said, right, bins=2) == pytest.approx(0.9)


def drawn(temperature: float, count: int = 4000) -> tuple[list[list[float]], list[int]]:
    """Decisions among four, right as often as they say; what is said is then sharpened by `temperature`."""
    random = np.random.default_rng(0)
    logits_NK = 1.5 * random.standard_normal((count, 4))
    true_NK = np.exp(logits_NK) / np.exp(logits_NK).sum(axis=1, keepdims=True)
    right = [int(random.choice(4, p=p_K)) for p_K in true_NK]
    said_NK = np.exp(logits_NK * temperature)
    return (said_NK / said_NK.sum(axis=1, keepdims=True)).tolist(), right


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_and_makes_the_error_small(temperature: float) -> None:
    said, right = drawn(temperature)
    found = fit_temperature(said, right)
    assert found == pytest.approx(temperature, rel=0.1)

    def error(sharpness: float) -> float:
        best = [(max(p), p.index(max(p)), sum(q**sharpness for q in p)) for p in said]
        shares = [p**sharpness / whole for p, _, whole in best]
        return calibration_error(shares, [at == which for (_, at, _), which in zip(best, right, strict=True)])

    assert error(1 / found) < 0.03
    if temperature != 1.0:
        assert error(1.0) > 3 * error(1 / found)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.integers(1, 20))
def test_it_is_a_share(rows: list[tuple[float, bool]], bins: int) -> None:
    said, right = zip(*rows, strict=True)
    assert 0 <= calibration_error(said, right, bins=bins) <= 1


def test_certain_decisions_need_no_infinity() -> None:
    assert 0.009 < fit_temperature([[1.0, 0.0]], [0]) < 0.011
    assert 99 < fit_temperature([[1.0, 0.0]], [1]) < 101


@pytest.mark.parametrize(("said", "right"), [([], []), ([0.5], []), ([1.5], [True]), ([float("nan")], [True])])
def test_what_cannot_be_counted_is_named(said: list[float], right: list[bool]) -> None:
    with pytest.raises(DataError, match="calibration"):
        calibration_error(said, right)


@pytest.mark.parametrize(("decisions", "right"), [([], []), ([[1.0]], [0, 0]), ([[0.5, 0.5]], [2])])
def test_verdicts_that_do_not_fit_are_named(decisions: list[list[float]], right: list[int]) -> None:
    with pytest.raises(DataError, match="calibration"):
        fit_temperature(decisions, right)
