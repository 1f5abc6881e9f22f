"""What every test shares. Threads are pinned so that two OpenMP pools never fight over the cores."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest

# Deadlines are timings, and a slow machine is not a bug. `HYPOTHESIS_PROFILE=quick` tries fewer examples.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=10)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that are marked slow, too")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that read the real base say so by their fixture; `-m "not real"` leaves them out. One worker runs all of
    them, so that base and reference are loaded once; any other file is one worker's, too."""
    if not config.getoption("--slow"):
        items[:] = [item for item in items if item.get_closest_marker("slow") is None]
    for item in items:
        real = "base" in getattr(item, "fixturenames", ())
        if real:
            item.add_marker(pytest.mark.real)
        item.add_marker(pytest.mark.xdist_group("real" if real else item.path.name))


@pytest.fixture(scope="session")
def base():  # type: ignore[no-untyped-def]
    """The real base, prepared once in the cache and then mapped: `plural.models.base.Base`."""
    from plural.models.base import load_base

    return load_base()


@pytest.fixture(scope="session")
def reference(base):  # type: ignore[no-untyped-def]
    """transformers' Llama, filled by transformers' own GGUF reader, in fp32. Who changes it puts it back."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        base.source.parent, gguf_file=base.source.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
