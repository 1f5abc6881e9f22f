"""The network's router: fitted to the library as it stands, and kept on disk until that or its lessons change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from plural.errors import DataError, StorageError
from plural.teams import Router
from plural.wiring.settings import STARTER, Settings

if TYPE_CHECKING:
    from plural.models.base import Base
    from plural.protocols import Embedder


class Routes:
    """`progress` is told what is being done, and the share of it that is done."""

    def __init__(self, base: Base, settings: Settings, progress: Callable[[str, float], None]) -> None:
        self._base, self._settings, self._progress = base, settings, progress
        self._cache = settings.resolve(settings.cache)
        self._fitted: tuple[Path, Router] | None = None

    async def router(
        self, labelled: Mapping[str, Sequence[str]], reader: Embedder, planners: Sequence[str] = ()
    ) -> Router:
        """Fitted to the texts of each label, unless one that was is known. A text is read once and kept."""
        made_of = label(self._base.digest, self._settings.dtype, _METHOD, *planners, json.dumps(labelled))
        path = self._cache / "routers" / f"{made_of}.npz"
        if self._fitted and self._fitted[0] == path:
            return self._fitted[1]
        try:
            with np.load(path, allow_pickle=False) as saved:
                router = Router.from_dict(saved)
        except (OSError, ValueError, BadZipFile, DataError):
            vectors: dict[str, Sequence[Sequence[float]]] = {}
            for count, (name, texts) in enumerate(labelled.items()):
                vectors[name] = await self.vectors(texts, reader, "requests", count / len(labelled))
            self._progress("", 1.0)
            router = Router.fit(vectors, planners=planners)
            made = router.to_dict()
            write(path, lambda partial: np.savez(partial, **made))
        self._fitted = path, router
        return router

    async def general(self, embedder: Embedder) -> list[list[float]]:
        """Of what nobody is a specialist for, read bare."""
        vectors = await self.vectors(general_texts(), embedder, "texts", 0.0)
        self._progress("", 1.0)
        return vectors

    async def vectors(self, texts: Sequence[str], reader: Embedder, how: str, done: float) -> list[list[float]]:
        """Of every text as `reader` reads it, which `how` names. `done` is what was done before, of all."""
        path = self._cache / "vectors" / f"{label(self._base.digest, self._settings.dtype, how, *texts)}.npy"
        with contextlib.suppress(OSError, ValueError):
            return np.load(path, allow_pickle=False).tolist()  # type: ignore[no-any-return]
        self._progress("reading examples", done)
        vectors = await reader.aembed(texts)
        write(path, lambda partial: np.save(partial, np.asarray(vectors, dtype=np.float32)))
        return vectors


# What is kept of routers that were fitted in another way is of no use.
_METHOD = "discriminants, planners before others"


def general_texts() -> tuple[str, ...]:
    """What people say of which nobody is a specialist."""
    return tuple((STARTER / "general.txt").read_text().splitlines())


def label(*made_of: str) -> str:
    """A file name for what is made of these."""
    return hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:32]


def write(path: Path, make: Callable[[Path], object]) -> None:
    """Whole or not at all. Raises StorageError."""
    partial = path.with_name(f".{time.monotonic_ns()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make(partial)
        partial.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}.", hint="Free some space."
        ) from error
