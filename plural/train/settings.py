"""The settings of a training: of each specialist, and of the pass over the base that they share.

Defaults follow "LoRA Without Regret" (Schulman et al., Thinking Machines Lab, 2025); docs/training.md says how far.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plural.errors import SettingsError
from plural.models.config import MODULES

_EPOCHS = 3.0
_LEAST_STEPS = 40
_MOST_BETWEEN_LOOKS = 40
# For what only moves what was learned before; AdamW's first steps are as large as the rate, however little is to learn.
_GENTLE_RATE = 2e-4
_BETA = 0.1


class _Strict(BaseModel):
    """Frozen and strict; `of` is the door that turns a wrong value into a SettingsError."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, **given: Any) -> Self:
        """`None` means not given. Raises SettingsError naming the option, its value and what is allowed."""
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                raise SettingsError(
                    f"There is no training setting {name!r}.", hint=f"Settings: {', '.join(cls.model_fields)}."
                ) from error
            raise SettingsError(f"{name} is {first['input']!r}: {first['msg']}.") from error


class PassSettings(_Strict):
    """What all specialists of a training share. Only `compute` changes what is computed."""

    compute: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="Precision of the frozen linears.")
    tokens_at_once: int = Field(default=2048, ge=1, description="Tokens computed together: memory, not the result.")
    prompt_megabytes: int = Field(
        default=1024,
        ge=0,
        description="Memory for the states of prompts that activated adapters leave to the base; what does not fit is "
        "computed again in every epoch.",
    )
    checkpoint_every: int = Field(default=25, ge=1, description="Steps between two checkpoints.")


class TrainSettings(_Strict):
    """What one specialist is trained with. `batch_rows` are pairs where preferences are learned."""

    rank: int = Field(default=8, ge=1, le=512, description="LoRA rank.")
    alpha: float | None = Field(default=None, gt=0, description="LoRA alpha; none is twice the rank, with rslora 8.")
    rslora: bool = Field(default=False, description="Scale by alpha / sqrt(rank) instead of alpha / rank (rsLoRA).")
    targets: tuple[str, ...] = Field(default=MODULES, min_length=1, description="Linears that get an update.")
    activated: bool = Field(
        default=False, description="Whether it acts from the assistant's turn on only (aLoRA); a higher rank helps."
    )
    learning_rate: float = Field(
        default=2e-3, gt=0, lt=1, description="Peak of AdamW; for preferences and training further, 2e-4 unless given."
    )
    beta: float | None = Field(
        default=None,
        gt=0,
        description="For preferences only (DPO): how firmly they hold to what was learned before; none is 0.1.",
    )
    epochs: float | None = Field(
        default=None, gt=0, description="Passes over the data at most; none is 3, or what 40 steps need."
    )
    max_steps: int | None = Field(default=None, ge=1, description="Steps at most, whatever the epochs say.")
    batch_rows: int = Field(default=8, ge=1, description="Rows of one step.")
    warmup: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps in which the rate rises to its peak."
    )
    decay: Literal["cosine", "linear", "none"] = Field(
        default="cosine", description="How the rate falls to 0 after it."
    )
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip: float = Field(default=1.0, gt=0, description="Largest norm of the gradient over all weights.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the split, the order and the first weights.")
    holdout: float = Field(default=0.1, ge=0, lt=1, description="Share of the prompts that is never trained on.")
    holdout_rows: int = Field(default=200, ge=1, description="Held-out rows at most.")
    evaluate_every: int | None = Field(
        default=None,
        ge=1,
        description="Steps between two looks at the held-out rows; none is a fifth of all, at most 40.",
    )
    patience: int = Field(default=3, ge=1, description="Looks without an improvement before it stops.")

    @classmethod
    def of(cls, **given: Any) -> Self:
        """`None` means not given. Raises SettingsError naming the option, its value and what is allowed."""
        made = super().of(**given)
        unknown = [target for target in made.targets if target not in MODULES]
        if unknown:
            raise SettingsError(f"targets names {unknown[0]!r}.", hint=f"Linears: {', '.join(MODULES)}.")
        return made

    def gentle(self) -> Self:
        """With the learning rate for what moves an adapter, or only its preferences, unless one was given."""
        given = "learning_rate" in self.model_fields_set
        return self if given else self.model_copy(update={"learning_rate": _GENTLE_RATE})

    def for_preferences(self) -> Self:
        return self.gentle().model_copy(update={"beta": self.beta or _BETA})

    def resolved_alpha(self) -> float:
        if self.alpha is not None:
            return self.alpha
        return 8.0 if self.rslora else 2.0 * self.rank

    def steps(self, rows: int) -> int:
        """Steps over `rows` training rows. Three passes over a few rows would be too few to learn anything."""
        least = 1 if self.epochs is not None else _LEAST_STEPS
        wanted = max(least, math.ceil((self.epochs or _EPOCHS) * rows / self.batch_rows))
        return wanted if self.max_steps is None else min(wanted, self.max_steps)

    def look_every(self, steps: int) -> int:
        """Steps between two looks in a training of `steps`."""
        return self.evaluate_every or min(_MOST_BETWEEN_LOOKS, max(1, steps // 5))

    def rate(self, step: int, of: int) -> float:
        """The learning rate of step `step`, counted from 0, of `of`."""
        rising = round(self.warmup * of)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        done = (step - rising) / max(1, of - rising)
        match self.decay:
            case "cosine":
                return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
            case "linear":
                return self.learning_rate * (1 - done)
            case "none":
                return self.learning_rate
