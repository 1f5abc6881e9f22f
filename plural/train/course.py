"""What one specialist is taught, from what it starts, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plural.errors import SettingsError
from plural.models.config import MODULES, DecoderConfig
from plural.specialists import AdapterWeights
from plural.train.data import Examples
from plural.train.settings import TrainSettings


@dataclass(frozen=True)
class Course:
    """`instructions` are the system message that it always sees. With `start` an adapter is trained further.

    Courses with the same `sweep` are candidates: the best of them becomes the specialist of that name.
    """

    name: str
    examples: Examples
    settings: TrainSettings = TrainSettings()
    instructions: str = ""
    sweep: str = ""
    start: AdapterWeights | None = None

    def resolved(self, config: DecoderConfig) -> TrainSettings:
        """The settings, with what the rows and the adapter decide. Raises SettingsError for what contradicts them."""
        settings = self.settings
        if self.examples.preferences:
            settings = settings.for_preferences()
        elif settings.beta is not None:
            raise SettingsError(
                f"beta is {settings.beta:g}, but {self.examples.source} has no rejected answers.",
                hint="Leave it out, or give rows with chosen and rejected.",
            )
        if self.start is None:
            return settings
        fixed = _shape(self.name, self.start, config)
        for key, value in fixed.items():
            given = getattr(settings, key)
            if key in settings.model_fields_set and given != value:
                raise SettingsError(
                    f"{key} is {given}, but the adapter that {self.name} starts from has {value}.",
                    hint=f"Leave {key} out.",
                )
        return settings.gentle().model_copy(update=dict(fixed))


def _shape(name: str, start: AdapterWeights, config: DecoderConfig) -> Mapping[str, Any]:
    """What cannot be changed any more. Raises SettingsError for an adapter that differs from layer to layer."""
    made = start.config
    targets = tuple(module for module in MODULES if module in made.targets)
    everywhere = {(layer, module) for layer in range(config.num_layers) for module in targets}
    if made.rank_pattern or made.alpha_pattern or start.tensors.keys() != everywhere:
        raise SettingsError(
            f"The adapter that {name} starts from has not the same rank and linears in every layer.",
            hint="Only an adapter that has can be trained further.",
        )
    return {
        "rank": made.rank,
        "alpha": made.alpha,
        "targets": targets,
        "rslora": made.use_rslora,
        "activated": bool(made.invocation),
    }
