"""Recipes are flat scripts: they import each other by bare names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes" / "starter"


@pytest.fixture(scope="package", autouse=True)
def recipes() -> Iterator[None]:
    sys.path.insert(0, str(RECIPES))
    yield
    sys.path.remove(str(RECIPES))
