"""The engine's options. Frozen and strict: an unknown or impossible option is an error."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from plural.errors import SettingsError


class EngineSettings(BaseModel):
    """`kv_tokens` is the size of the KV pool, `step_tokens` how many tokens one step may compute, both in tokens.

    `dtype` is how the base's linears are held and computed: "int8" is weights and inputs in 8 bits, block by block;
    "auto" is the exact one, fp32. Everything else (attention, adapters, norms) is fp32 always.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_running: int = Field(default=32, ge=1)
    step_tokens: int = Field(default=512, ge=1)
    # A multiple of 16 keeps every softmax row a whole number of vector registers (see kernels/torch_kernels.py).
    page_size: int = Field(default=16, ge=16, multiple_of=16)
    kv_tokens: int = Field(default=32_768, ge=16)
    adapter_slots: int = Field(default=64, ge=1)
    prefix_cache: bool = True
    threads: int | None = Field(default=None, ge=1)
    dtype: Literal["auto", "fp32", "int8"] = "auto"

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
            raise SettingsError(f"The engine's settings are wrong: {wrong}.") from error

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.step_tokens < self.max_running:
            raise ValueError(f"step_tokens {self.step_tokens} is below max_running {self.max_running}")
        if self.kv_tokens < self.page_size:
            raise ValueError(f"kv_tokens {self.kv_tokens} is below page_size {self.page_size}")
        return self

    @property
    def num_pages(self) -> int:
        return self.kv_tokens // self.page_size
