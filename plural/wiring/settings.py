"""The settings of the embedded network, read once, and the library they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from plural.errors import SettingsError
from plural.specialists import Library

if TYPE_CHECKING:
    from plural.agents.memory import LongTerm

STARTER = Path(__file__).parents[1] / "starter"


class Settings(BaseSettings):
    """From keyword arguments, else the environment (`PLURAL_BASE`, `PLURAL_LIBRARY`, ...), else these defaults."""

    model_config = SettingsConfigDict(env_prefix="PLURAL_", frozen=True, extra="forbid")

    base: Path | None = Field(default=None, description="Model directory or GGUF file; none is the embedded SmolLM2.")
    library: Path = Field(default=Path("~/.local/share/plural/library"), description="Your specialists.")
    cache: Path = Field(
        default=Path("~/.cache/plural"), description="Prepared bases and read examples; can be deleted."
    )
    memories: Path = Field(
        default=Path("~/.local/share/plural/memory.sqlite"), description="Facts and results that agents keep for good."
    )
    starter: bool = Field(default=True, description="Whether the starter library stands under yours.")
    device: str = Field(default="cpu", description="Where the base lives: cpu, cuda, cuda:1.")
    threads: int | None = Field(default=None, ge=1, description="CPU threads of the engine; none is one a core.")
    dtype: Literal["auto", "fp32", "bf16", "int8", "q4"] = Field(
        default="auto",
        description="How the engine holds the base's linears: fp32 (exact), bf16, int8, q4 (a GGUF's own 4-bit "
        "blocks); auto is the smallest that rounds no weight.",
    )
    max_running: int = Field(default=32, ge=1, description="Requests worked on at once.")
    memory: str | int | None = Field(
        default=None, description="What the process may hold in all: 4GB. Without it, pages for 32,768 tokens."
    )
    journal: str | Path | None = Field(
        default=None, description="Where runs are written: an SQLite file or a database's URL; none is nowhere."
    )
    traces: bool = Field(
        default=False,
        description="Whether runs are traced by OpenTelemetry; OTEL_EXPORTER_OTLP_ENDPOINT says where spans go.",
    )
    cluster: str | None = Field(
        default=None,
        description="The Ray cluster whose replicas compute (host:port, auto); none is this process.",
    )
    max_tokens: int = Field(default=256, ge=1, description="New tokens of one answer at most.")
    max_steps: int = Field(default=6, ge=1, description="Steps of one plan at most.")

    def resolve(self, path: Path) -> Path:
        return path.expanduser().absolute()


def read_settings(**given: Any) -> Settings:
    """`None` means not given. Raises SettingsError naming the option and its value."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        known = ", ".join(Settings.model_fields)
        unknown = first["type"] == "extra_forbidden"
        raise SettingsError(
            f"There is no setting {name!r}." if unknown else f"{name} is {first['input']!r}: {first['msg']}.",
            hint=f"Settings: {known}." if unknown else Settings.model_fields[name].description or "",
        ) from error


def shelf(settings: Settings) -> Library:
    return Library(settings.resolve(settings.library), starter=[STARTER] if settings.starter else [])


def open_library(root: Path | None = None) -> Library:
    """The specialists on disk, without base or engine: yours, and the starter library under them."""
    return shelf(read_settings(library=root))


def open_memory(path: Path | None = None) -> LongTerm:
    """What is remembered for good, without base or engine: it can be read and forgotten, but not searched."""
    from plural.agents.memory import LongTerm

    settings = read_settings(memories=path)
    return LongTerm(settings.resolve(settings.memories))
