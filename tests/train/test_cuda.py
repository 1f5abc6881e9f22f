"""Training on a GPU is training on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from plural.models.base import Base, load_base
from plural.train import Course, Examples, PassSettings, Stepped, TrainSettings, train

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)


@pytest.mark.parametrize("more", [{}, {"activated": True}])
def test_the_losses_are_those_of_the_cpu(tiny: Base, examples: Examples, tmp_path: Path, more: dict[str, Any]) -> None:
    settings = TrainSettings(rank=4, batch_rows=4, learning_rate=1e-2, holdout=0, max_steps=20, **more)
    curves = []
    for device in ("cpu", "cuda"):
        base = load_base(tiny.source, device=device)
        course = Course(device, examples, settings)
        events = list(train(base, [course], tmp_path, PassSettings(compute="fp32")))
        curves.append([event.loss for event in events if isinstance(event, Stepped)])
    ours, theirs = curves
    assert len(ours) == len(theirs) == 20
    assert abs(ours[-1] - ours[0]) > 0.05 * ours[0]
    assert max(abs(a - b) / a for a, b in zip(ours, theirs, strict=True)) < 1e-3
