"""What a specialist's training needs to go on after a kill, in one file that is either the old one or the new one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from plural.errors import SettingsError, StorageError
from plural.specialists.peft_files import write_file


@dataclass
class Progress:
    """Where a training stands. `losses` are the last few, oldest first; `worse` counts looks without improvement.

    `writing`: what lies in the adapter's place is this training's own; `written`: it is whole. Of a candidate of a
    sweep, `rungs` are the losses at the rungs it has come to; `beaten`: it was stopped there, or diverged.
    """

    step: int = 0
    first_loss: float | None = None
    losses: list[float] = field(default_factory=list)
    best_loss: float | None = None
    worse: int = 0
    looked_at: int = -1
    stopped: bool = False
    tokens: int = 0
    seconds: float = 0.0
    writing: bool = False
    written: bool = False
    rungs: list[float] = field(default_factory=list)
    beaten: bool = False


def save(path: Path, progress: Progress, tensors: Mapping[str, Tensor], identity: Mapping[str, Any]) -> None:
    """Raises StorageError; the checkpoint that was there before is then still whole."""
    metadata = {"progress": json.dumps(asdict(progress)), "identity": json.dumps(dict(identity), sort_keys=True)}
    content = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    except OSError as error:
        raise StorageError(
            f"The checkpoint {path} could not be written: {error.strerror or error}.",
            hint="Free some space and resume.",
        ) from error


def load(path: Path, identity: Mapping[str, Any]) -> tuple[Progress, dict[str, Tensor]] | None:
    """None when there is no checkpoint. Raises SettingsError naming what differs from the training that made it."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        made_by, progress = json.loads(metadata["identity"]), Progress(**json.loads(metadata["progress"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} is damaged: {error}.", hint="Train from the beginning (without resume).") from error
    now = json.loads(json.dumps(dict(identity)))
    for key in sorted(made_by.keys() | now.keys()):
        if made_by.get(key) != now.get(key):
            raise SettingsError(
                f"The interrupted training had {key} = {made_by.get(key)!r}, this one has {now.get(key)!r}.",
                hint="Resume with the same data and settings, or train from the beginning.",
            )
    return progress, tensors
