"""How much of the network runs, and where. Frozen and strict."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from plural.errors import SettingsError


class ScaleSettings(BaseSettings):
    """From keyword arguments, else the environment (`PLURAL_SCALE_REPLICAS`, ...), else these defaults."""

    model_config = SettingsConfigDict(env_prefix="PLURAL_SCALE_", frozen=True, extra="forbid")

    replicas: int = Field(default=1, ge=1, description="Engine replicas; with max_replicas, the fewest.")
    max_replicas: int | None = Field(
        default=None, ge=1, description="The most: Ray Serve adds and removes replicas by queue depth."
    )
    target: float | None = Field(
        default=None,
        gt=0,
        description="Requests under way and waiting at each replica that scaling aims at. "
        "Default: 4 for each of its CPUs, 16 if it has a GPU.",
    )
    grow_after: float = Field(
        default=10.0, ge=0, description="Seconds for which the target is exceeded before a replica is added."
    )
    shrink_after: float = Field(
        default=300.0, ge=0, description="Seconds for which fewer would do before a replica is taken away."
    )
    busy: int = Field(default=32, ge=1, description="Requests that a replica takes at most, computed and waiting.")
    slack: int | None = Field(
        default=None,
        ge=0,
        description="By how many requests the replicas that know a specialist or a prefix may be ahead before another "
        "one is asked. Default: 4 for each CPU of a replica, 16 if it has a GPU.",
    )
    kept: int = Field(
        default=1024, ge=1, description="Specialists and prefixes by which a replica is remembered; least recent go."
    )
    cpus: int = Field(default=1, ge=1, description="CPUs of a replica, and the threads of its engine.")
    gpus: float = Field(default=0.0, ge=0, description="GPUs of a replica.")
    spread: bool = Field(default=False, description="At most one replica on a node.")
    pause: float = Field(
        default=0.05, ge=0, description="Seconds between two messages of one answer; tokens in between travel together."
    )
    patience: float = Field(
        default=30.0, gt=0, description="Seconds for which a cluster or a replica that is gone is tried again."
    )
    affinity: bool = Field(
        default=True, description="Requests go where their specialist or prefix is; without it, where least waits."
    )

    @classmethod
    def of(cls, **given: Any) -> Self:
        """`None` means not given. Raises SettingsError naming the option and its value."""
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "scale"
            raise SettingsError(
                f"{name} is {first['input']!r}: {first['msg']}.", hint=f"Options: {', '.join(cls.model_fields)}."
            ) from error

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below replicas {self.replicas}")
        if self.target is not None and self.target > self.busy:
            raise ValueError(f"target {self.target} is above busy {self.busy}: it is never reached")
        return self

    @property
    def aim(self) -> float:
        """`target`, as it is given or follows from what a replica has (docs/scaling.md, "How many replicas")."""
        if self.target is not None:
            return self.target
        return min(self.busy, self._few)

    @property
    def ahead(self) -> int:
        return self._few if self.slack is None else self.slack

    @property
    def _few(self) -> int:
        return 16 if self.gpus else 4 * self.cpus
