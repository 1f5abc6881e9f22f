"""The settings of the embedded network, read once, and the library they name."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
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
    library: Path | str = Field(
        default=Path("~/.local/share/plural/library"),
        description="Your specialists: a folder, or a URL that fsspec knows, as s3://bucket/library.",
    )
    cache: Path = Field(
        default=Path("~/.cache/plural"), description="Prepared bases and read examples; can be deleted."
    )
    memories: Path = Field(
        default=Path("~/.local/share/plural/memory.sqlite"), description="Facts and results that agents keep for good."
    )
    starter: bool = Field(default=True, description="Whether the starter library stands under yours.")
    engine: str = Field(
        default="plural",
        description="Who computes: plural (this process), vllm:http://host:port (any server with OpenAI's completions "
        "and vLLM's adapter admin), or vllm (one is started).",
    )
    engine_key: SecretStr | None = Field(default=None, description="The API key of an engine behind HTTP.")
    engine_slots: int | None = Field(
        default=None,
        ge=1,
        description="Adapters that an engine behind HTTP keeps at once; none is what it says, else 8.",
    )
    device: str = Field(default="cpu", description="Where the base lives: cpu, cuda, cuda:1.")
    threads: int | None = Field(default=None, ge=1, description="CPU threads of the engine; none is one a core.")
    dtype: Literal["auto", "fp32", "bf16", "int8", "q4"] = Field(
        default="auto",
        description="How the engine holds the base's linears: fp32 (exact), bf16, int8, q4 (a GGUF's own 4-bit "
        "blocks); auto is the smallest that rounds no weight.",
    )
    max_running: int = Field(default=64, ge=1, description="Requests worked on at once.")
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

    @field_validator("journal")
    @classmethod
    def _nowhere(cls, journal: str | Path | None) -> str | Path | None:
        """As the command line says it, and the environment, where it has to win over a file that is set otherwise."""
        return None if str(journal) == "none" else journal

    @field_validator("library")
    @classmethod
    def _place(cls, place: Path | str) -> Path | str:
        """A URL stays a text. In a Path, which the command line makes of it, its slashes have been folded."""
        text = re.sub(r"^([a-z][a-z0-9+.-]+):/(?!/)", r"\1://", str(place))
        text = re.sub(r"^file://(?!/)", "file:///", text)
        return text if "://" in text else Path(place)

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
    """The library that they name. Raises SettingsError for a URL that cannot be opened."""
    starter = [STARTER] if settings.starter else []
    if isinstance(settings.library, Path):
        return Library(settings.resolve(settings.library), starter=starter)
    from plural.specialists.shared import SharedLibrary

    name = hashlib.sha256(settings.library.encode()).hexdigest()[:32]
    return SharedLibrary(settings.library, settings.resolve(settings.cache) / "libraries" / name, starter=starter)


def open_library(root: Path | str | None = None) -> Library:
    """The specialists on disk, without base or engine: yours, and the starter library under them."""
    return shelf(read_settings(library=root))


def open_memory(path: Path | None = None) -> LongTerm:
    """What is remembered for good, without base or engine: it can be read and forgotten, but not searched."""
    from plural.agents.memory import LongTerm

    settings = read_settings(memories=path)
    return LongTerm(settings.resolve(settings.memories))
