"""`import plural` is free: it loads none of the heavy libraries, and every public name can be had."""

from __future__ import annotations

import subprocess
import sys

import plural

HEAVY = ("torch", "langchain_core", "pydantic", "numpy", "transformers")


def test_import_loads_nothing_heavy() -> None:
    code = f"import sys, plural; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists() -> None:
    for name in plural.__all__:
        assert getattr(plural, name) is not None


def test_the_shelf_is_read_without_torch_or_langchain() -> None:
    """`plural list` and `plural show` read cards; they start no engine."""
    code = (
        "import sys; from plural.wiring.settings import open_library;"
        "print(*[each.card.name for each in open_library()]);"
        "print([m for m in ('torch', 'langchain_core', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    cards, heavy = done.stdout.splitlines()
    assert "cron" in cards.split()
    assert heavy == "[]"
