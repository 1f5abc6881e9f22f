"""Vectors that tell texts apart: another embedder's, standardised."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from plural.errors import DataError
from plural.protocols import Embedder


class Standardised:
    """A language model's mean hidden states all point about the same way. Each of their numbers is given zero mean and
    unit spread over some reference texts, and the vector unit norm; benchmarks/recall.py shows what that is worth.

    Args:
        embedder: whose vectors they are.
        reference: the vectors of the reference texts; asked for once.

    Raises:
        DataError: fewer than two reference vectors.
    """

    def __init__(self, embedder: Embedder, reference: Callable[[], Awaitable[Sequence[Sequence[float]]]]) -> None:
        self._embedder = embedder
        self._reference = reference
        self._scale: tuple[np.ndarray, np.ndarray] | None = None

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        if self._scale is None:
            x_ND = np.asarray(await self._reference(), dtype=np.float64)
            if len(x_ND) < 2:
                raise DataError("reference vectors", [(0, f"got {len(x_ND)}, at least 2 are needed")])
            self._scale = x_ND.mean(axis=0), x_ND.std(axis=0) + 1e-6
        mean_D, spread_D = self._scale
        y_TD = (np.asarray(await self._embedder.aembed(texts), dtype=np.float64) - mean_D) / spread_D
        vectors: list[list[float]] = (y_TD / np.maximum(np.linalg.norm(y_TD, axis=1, keepdims=True), 1e-12)).tolist()
        return vectors
