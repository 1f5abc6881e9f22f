"""What this machine offers, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from plural.errors import PluralError
from plural.models.base import find_base
from plural.wiring.settings import Settings, read_settings, shelf

_NEEDED_GB = 1.5


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    state: Literal["ok", "note", "bad"]
    value: str
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(base: Path | None = None, library: Path | None = None) -> list[Finding]:
    """Every finding, in the order a person would ask; `bad` ones stop the network from opening."""
    settings = read_settings(base=base, library=library)
    return [*_machine(settings), _base(settings), *_library(settings), *_folders(settings)]


def _machine(settings: Settings) -> Iterator[Finding]:
    import torch

    from plural.engine.kernels.abi import instruction_set
    from plural.engine.kernels.choice import triton_is_there

    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, plural {importlib.metadata.version('plural')}"
    )
    yield Finding("software", "ok", versions)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = settings.threads or torch.get_num_threads()
    crowded = threads > cores
    yield Finding(
        "threads",
        "note" if crowded else "ok",
        f"{threads} of {cores} cores",
        "More threads than cores slow each other down: set PLURAL_THREADS." if crowded else "",
    )
    yield Finding("instructions", "ok", ", ".join(_instruction_sets()) or platform.machine())
    if native := instruction_set():
        yield Finding("native kernels", "ok", native)
    else:
        yield Finding(
            "native kernels",
            "note",
            "none that run here; the engine uses torch, which is slower",
            "Install a C++20 compiler (g++ 12 or clang 16) and install Plural again.",
        )
    if torch.cuda.is_available():
        yield Finding("accelerator", "ok", torch.cuda.get_device_name(), "Use it with PLURAL_DEVICE=cuda.")
        if triton_is_there():
            yield Finding("GPU kernels", "ok", f"triton {importlib.metadata.version('triton')}")
        else:
            yield Finding(
                "GPU kernels",
                "note",
                "triton is not installed; on the GPU the engine uses torch, which is slower",
                "Install it: pip install triton",
            )
    else:
        yield Finding("accelerator", "ok", "none; everything runs on the CPU")


def _instruction_sets() -> list[str]:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return []
    flags = {
        flag
        for line in cpuinfo.read_text().splitlines()
        if line.startswith(("flags", "Features"))
        for flag in line.split()
    }
    wanted = (
        "avx2",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_int8",
        "amx_bf16",
        "asimd",
        "asimddp",
    )
    return [name for name in wanted if name in flags]


def _base(settings: Settings) -> Finding:
    try:
        found = find_base(settings.base)
    except PluralError as error:
        return Finding("base model", "bad", error.message, error.hint)
    return Finding("base model", "ok", f"{found.name} in {found.path}")


def _library(settings: Settings) -> Iterator[Finding]:
    library = shelf(settings)
    names = library.names()
    yield Finding(
        "specialists",
        "ok" if names else "note",
        ", ".join(names) or "none",
        "" if names else "Train one: plural train DATA.jsonl --name NAME",
    )
    for name in names:
        try:
            library.get(name).verify()
        except PluralError as error:
            yield Finding(f"specialist {name}", "bad", error.message, error.hint)


def _folders(settings: Settings) -> Iterator[Finding]:
    for what, path in (("library", settings.library), ("cache", settings.cache)):
        if isinstance(path, str):
            continue  # a URL; whether it can be read was seen above
        where = settings.resolve(path)
        standing = next(parent for parent in (where, *where.parents) if parent.exists())
        if not os.access(standing, os.W_OK):
            yield Finding(what, "bad", f"{where} cannot be written", f"Set PLURAL_{what.upper()} to a folder that can.")
            continue
        free = shutil.disk_usage(standing).free / 1e9
        little = what == "cache" and free < _NEEDED_GB
        yield Finding(
            what,
            "note" if little else "ok",
            f"{where} ({free:.0f} GB free)",
            f"A prepared base takes about {_NEEDED_GB} GB." if little else "",
        )
