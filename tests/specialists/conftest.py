"""A base of two small layers and a sound adapter for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from plural.specialists import AdapterConfig, BaseShape, write_adapter

from .adapters import BASE, MODULES, random_weights


@pytest.fixture
def shape() -> BaseShape:
    return BaseShape(BASE, 2, MODULES)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A sound adapter of rank 4 on two modules."""
    path = tmp_path / "adapter"
    write_adapter(path, random_weights(AdapterConfig(4, 8, ("q_proj", "down_proj"))), base_name="tiny", dtype="float32")
    return path
