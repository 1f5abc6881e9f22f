"""The engine's options. Frozen and strict: an unknown or impossible option is an error."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from plural.errors import SettingsError

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{unit}": base**power
    for unit, base in (("B", 1000), ("iB", 1024))
    for power, letter in enumerate("KMGT", start=1)
}


def to_bytes(size: object) -> object:
    """ "4GB" or "512 MiB" as bytes; what is no text is left as it is. Raises ValueError."""
    if not isinstance(size, str):
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", size)
    factor = next((_UNITS[unit] for unit in _UNITS if match and unit.lower() == match[2].lower()), None)
    if match is None or factor is None:
        raise ValueError(f"{size!r} is not a size such as 4GB or 512MiB")
    return int(float(match[1]) * factor)


# Bytes for adapters on their way, and for what requests and Python take.
BESIDE = 128 << 20


class EngineSettings(BaseModel):
    """`memory` is what the process may hold in all, weights, keys and values, and adapters: bytes, or a text such as
    "4GB" or "512MiB". What is left of it when the engine starts becomes the pool of pages. Without it the pool has room
    for the keys and values of `kv_tokens` tokens. `step_tokens` is how many tokens one step may compute.

    `dtype` is how the base's linears are held and computed. "fp32" is exact. "bf16" rounds the weights and multiplies
    in fp32. "int8" has weights and inputs in 8 bits, block by block. "q4" is int8 that reads the 4-bit blocks of a GGUF
    as they are: a linear that has none (a head in Q8_0, say) is held in 8 bits, and a base without any is a
    SettingsError. "auto" is the smallest of them that holds every weight to the bit: q4 for a GGUF in 4- and 8-bit
    blocks, bf16 for a checkpoint in bf16, else fp32. Everything else (attention, adapters, norms) is fp32 always.
    On a GPU "auto" is fp32, and "bf16" rounds what the linears read and give as well, but for the output head.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_running: int = Field(default=64, ge=1)
    step_tokens: int = Field(default=512, ge=1)
    # A multiple of 16 keeps every softmax row a whole number of vector registers (see kernels/torch_kernels.py).
    page_size: int = Field(default=16, ge=16, multiple_of=16)
    memory: Annotated[int, BeforeValidator(to_bytes)] | None = None
    kv_tokens: int = Field(default=32_768, ge=16)
    prefix_cache: bool = True
    threads: int | None = Field(default=None, ge=1)
    dtype: Literal["auto", "fp32", "bf16", "int8", "q4"] = "auto"

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
            raise SettingsError(f"The engine's settings are wrong: {wrong}.") from error

    @model_validator(mode="before")
    @classmethod
    def _no_more_than_a_step(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Where only small steps are asked for, as many run at most as one has tokens."""
        most = options.get("step_tokens")
        if "max_running" not in options and isinstance(most, int) and most >= 1:
            return {**options, "max_running": min(most, cls.model_fields["max_running"].default)}
        return options

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.step_tokens < self.max_running:
            raise ValueError(f"step_tokens {self.step_tokens} is below max_running {self.max_running}")
        if self.memory is not None and "kv_tokens" in self.model_fields_set:
            raise ValueError("memory and kv_tokens both say how large the pool is: give one of them")
        if self.kv_tokens < self.page_size:
            raise ValueError(f"kv_tokens {self.kv_tokens} is below page_size {self.page_size}")
        return self

    def num_pages(self, page_bytes: int, held: int, row_bytes: int = 0) -> int:
        """How many pages of so many bytes the pool has, when `held` bytes are in use by all else and a step takes
        `row_bytes` for each of its tokens.

        Raises SettingsError when `memory` has no room for any.
        """
        if self.memory is None:
            return self.kv_tokens // self.page_size
        needed = held + BESIDE + self.step_tokens * row_bytes
        left = self.memory - needed
        if left < 2 * page_bytes:  # one is the null page
            raise SettingsError(
                f"memory is {self.memory / 1e6:.0f} MB; {needed / 1e6:.0f} MB are needed before the first "
                f"request, and two pages take {2 * page_bytes / 1e6:.1f} MB.",
                hint="Raise memory, or lower step_tokens.",
            )
        return left // page_bytes - 1
