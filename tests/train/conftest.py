"""A tiny base as a model directory, and rows to train on."""

from __future__ import annotations

import json

import pytest
from models import tiny as tiny_models

from plural.models.base import Base, load_base
from plural.train import Examples, read_examples


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.save(folder, tie_word_embeddings=True)
    return load_base(folder)


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [{"prompt": f"{n} and {n % 7}?", "answer": f"sum {n + n % 7}."} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return read_examples(path)
