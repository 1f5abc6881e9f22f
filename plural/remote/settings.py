"""Which engine: ours, one at an address, or one that is started here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from plural.errors import SettingsError

# Of an engine that does not say how many adapters it keeps.
SLOTS = 8


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """`url` is empty for one that is started here. `slots` is how many adapters it keeps at once; None is what it says,
    else 8. `patience` is for how many seconds one that cannot be reached is tried again."""

    url: str = ""
    key: str | None = None
    slots: int | None = None
    patience: float = 20.0


def read_address(engine: str, *, key: str | None = None, slots: int | None = None) -> EngineAddress | None:
    """Of "plural", which is ours and has no address: None; of "vllm:http://host:port", or "vllm". Raises
    SettingsError."""
    if engine == "plural":
        if slots is not None or key is not None:
            raise SettingsError(
                "engine_slots and engine_key are for an engine behind HTTP; ours has no slots.",
                hint="Set engine to vllm or vllm:http://host:port.",
            )
        return None
    kind, _, url = engine.partition(":")
    if kind != "vllm" or (url and not re.fullmatch(r"https?://[^/\s]+(/[^\s?#]*)?", url)):
        raise SettingsError(f"engine is {engine!r}.", hint="Known: plural, vllm (started here), vllm:http://host:port.")
    return EngineAddress(url.rstrip("/").removesuffix("/v1"), key, slots)
