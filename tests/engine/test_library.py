"""An engine over a real library: whatever happens to one specialist's files, the others are served."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from plural.engine import Engine, Request
from plural.engine.kernels.interface import Kernels
from plural.engine.kernels.native import NativeKernels
from plural.engine.kernels.pages import page_bytes
from plural.errors import SpecialistError
from plural.models.base import Base
from plural.models.config import MODULES, DecoderConfig
from plural.specialists import AdapterConfig, AdapterWeights, BaseShape, Library, read_adapter, write_adapter
from plural.types import AdapterRef, Sampling
from tests.serve.tiny import stage_specialist, tiny_base

from .tiny import collect, drawn, drive

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PROMPT = tuple((5 * i) % 256 for i in range(40))


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return tiny_base(tmp_path / "base")


@pytest.fixture
def library(base: Base, tmp_path: Path) -> Library:
    made = Library(tmp_path / "library")
    for seed, name in enumerate(("clerk", "judge")):
        made.publish(stage_specialist(tmp_path / name, base, seed=seed, name=name), name=name, replace=False)
    return made


@pytest.fixture
def engine(base: Base, library: Library) -> Engine:
    shape = base.shape
    return Engine(base.decoder, base.tokenizer, lambda digest: library.load(digest, shape), start=False)


async def answer(engine: Engine, digest: str | None) -> list[tuple[int, float]]:
    adapter = AdapterRef(digest) if digest else None
    [events] = await drive(engine, collect(engine, Request(PROMPT, Sampling(max_tokens=6, ignore_eos=True), adapter)))
    if isinstance(events, BaseException):
        raise events
    return drawn(events)


class Bomb:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def overwritten(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def replaced(folder: Path) -> None:
    (folder / "new").write_bytes((folder / WEIGHTS).read_bytes()[:-2] + b"\x01\x02")
    (folder / "new").replace(folder / WEIGHTS)


def cut_short(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def emptied(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def other_scale(folder: Path) -> None:
    said = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**said, "lora_alpha": 9}))


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def pickled(folder: Path) -> None:
    """SGLang 26789, TensorRT-LLM 13391: weights that run code when they are read."""
    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb(folder / "ran")))


def pickled_beside(folder: Path) -> None:
    """As PEFT once saved: no safetensors, and a pickle that would be read in its place."""
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(folder / "ran")))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (overwritten, "its card is of"),
        (replaced, "its card is of"),
        (cut_short, "damaged or cut off"),
        (emptied, "damaged or cut off"),
        (other_scale, "its card is of"),
        (gone, "No specialist in"),
        (pickled, "damaged or cut off"),
        (pickled_beside, "is a pickle"),
    ],
)
async def test_a_specialist_whose_files_changed_is_refused_and_the_others_are_served(
    engine: Engine, library: Library, change: Callable[[Path], None], says: str
) -> None:
    clerk, judge = library.get("clerk"), library.get("judge")
    before = [await answer(engine, digest) for digest in (judge.digest, None)]
    change(clerk.path)
    for _ in range(2):
        with pytest.raises(SpecialistError, match=says):
            await answer(engine, clerk.digest)
    assert not (clerk.path / "ran").exists()
    assert [await answer(engine, digest) for digest in (judge.digest, None)] == before
    engine.check()
    assert engine.stats().pages_used == 0


async def test_one_that_is_in_pages_is_served_from_there_whatever_becomes_of_its_files(
    engine: Engine, library: Library
) -> None:
    clerk = library.get("clerk")
    before = await answer(engine, clerk.digest)
    overwritten(clerk.path)
    assert await answer(engine, clerk.digest) == before
    assert engine.stats().loaded == 1


@pytest.mark.parametrize("change", [overwritten, cut_short])
def test_a_file_that_is_written_to_between_reading_and_copying_is_not_served(
    engine: Engine, library: Library, change: Callable[[Path], None]
) -> None:
    clerk = library.get("clerk")
    parcel = engine._adapters.load(clerk.digest)
    change(clerk.path)
    with pytest.raises(SpecialistError, match="was changed while it was read"):
        engine._adapters.pin(clerk.digest, parcel)
    engine.check()
    assert engine.stats().adapters == ()
    assert engine.stats().pages_used == 0


async def test_a_file_that_is_replaced_between_reading_and_copying_is_served_as_it_was_read(
    engine: Engine, library: Library, base: Base, tmp_path: Path
) -> None:
    clerk = library.get("clerk")
    parcel = engine._adapters.load(clerk.digest)
    library.publish(stage_specialist(tmp_path / "next", base, seed=7, name="clerk"), name="clerk", replace=True)
    shutil.rmtree(library.root / ".versions")
    engine._adapters.pin(clerk.digest, parcel)
    with pytest.raises(SpecialistError, match="No specialist in"):
        library.load(clerk.digest, base.shape)
    said = await answer(engine, clerk.digest)
    assert said != await answer(engine, library.get("clerk").digest)


# ------------------------------------------------------------------------------------------------- counted
WIDE = DecoderConfig("llama", 258, 1024, 2, 16, 4, 64, 1024, 64)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_adapter_is_read_and_packed_without_a_copy(tmp_path: Path, dtype: str) -> None:
    """Counted: what reading and packing takes of memory at most, beside the file."""
    shape = BaseShape("wide", 2, {module: (WIDE.in_features(module), WIDE.out_features(module)) for module in MODULES})
    random = np.random.default_rng(0)
    tensors = {
        (layer, module): tuple(random.normal(size=size).astype(np.float32) for size in ((64, inputs), (outputs, 64)))
        for layer in range(2)
        for module, (inputs, outputs) in shape.modules.items()
    }
    weights = AdapterWeights("", AdapterConfig(64, 64, tuple(MODULES)), tensors)  # type: ignore[arg-type]
    write_adapter(tmp_path, weights, base_name="wide", dtype=dtype)  # type: ignore[arg-type]
    kernels: Kernels = NativeKernels(threads=1)
    each = page_bytes(WIDE, 64, torch.float32)
    kernels.pack(WIDE, read_adapter(tmp_path, shape), each, torch.float32)  # what is made once is made now
    tracemalloc.start()
    try:
        parcel = kernels.pack(WIDE, read_adapter(tmp_path, shape), each, torch.float32)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = (tmp_path / WEIGHTS).stat().st_size
    assert size > 3e6
    assert sum(piece.array.nbytes for piece in parcel.pieces) > 0.99 * size
    assert most < size / 8
