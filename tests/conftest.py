"""What every test shares. Threads are pinned so that two OpenMP pools never fight over the cores."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("KMP_BLOCKTIME", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest  # noqa: E402 - the threads are set before anything reads them


@pytest.fixture(scope="session")
def base():  # type: ignore[no-untyped-def]
    """The real base, prepared once in the cache and then mapped: `plural.models.base.Base`."""
    from plural.models.base import load_base

    return load_base()
