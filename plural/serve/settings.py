"""How the server stands: where it listens, whom it lets in, and how much at once. Frozen and strict."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from plural.errors import SettingsError


class ServeSettings(BaseSettings):
    """From keyword arguments, else the environment (`PLURAL_SERVE_PORT`, ...), else these defaults."""

    model_config = SettingsConfigDict(env_prefix="PLURAL_SERVE_", frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="The address to listen on; any but loopback needs API keys.")
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one.")
    api_key: SecretStr | None = Field(default=None, description="One key that may do everything; kept in no file.")
    keys: Path | None = Field(default=None, description="The file of hashed keys that `plural keys` writes.")
    hosts: tuple[str, ...] = Field(
        default=(), description="Names that clients may call the server by, besides its own."
    )
    aliases: dict[str, str] = Field(default={}, description="More names that models are asked by, and which they are.")
    origins: tuple[str, ...] = Field(default=(), description="Web pages that may call (CORS); by default none.")
    data: Path | None = Field(default=None, description="The folder of stored answers and uploaded files.")
    tls_cert: Path | None = Field(default=None, description="PEM file of the certificate chain.")
    tls_key: Path | None = Field(default=None, description="PEM file of its private key.")
    max_inside: int = Field(default=128, ge=1, description="Answers worked on or waiting; the next one gets a 429.")
    max_per_key: int | None = Field(default=None, ge=1, description="The same for each API key.")
    timeout: float = Field(default=600.0, gt=0, description="Seconds that a whole answer may take.")
    run_timeout: float = Field(
        default=3600.0, gt=0, description="Seconds that a run may be worked on before it is cancelled."
    )
    drain: int = Field(default=30, ge=0, description="Seconds that answers under way get after SIGTERM.")
    body_limit: int = Field(default=4 << 20, ge=1024, description="Bytes of a request's body.")
    upload_limit: int = Field(default=256 << 20, ge=1024, description="Bytes of an uploaded file.")
    upload_total: int = Field(default=4 << 30, ge=1024, description="Bytes of all files of one API key.")
    max_jobs: int = Field(default=32, ge=1, description="Trainings under way or waiting; the next one gets a 429.")

    @classmethod
    def of(cls, **given: Any) -> Self:
        """`None` means not given. Raises SettingsError naming the option, not its value, which may be a secret."""
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            name = ".".join(map(str, first["loc"])) or "The server's settings"
            raise SettingsError(f"{name}: {first['msg']}.", hint=f"Options: {', '.join(cls.model_fields)}.") from None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if "*" in self.origins:
            raise ValueError("origins must be named one by one, not as *")
        return self

    @property
    def loopback(self) -> bool:
        """Can only this machine reach it?"""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
