"""Many adapters, one base, one step. Owns the KV pages, the resident adapters, the prefix cache, sampling, grammars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plural.engine.engine import Engine, EngineStats
    from plural.engine.request import Request
    from plural.engine.settings import EngineSettings

__all__ = ["Engine", "EngineSettings", "EngineStats", "Request"]

_HOMES = {"Engine": "engine", "EngineStats": "engine", "Request": "request", "EngineSettings": "settings"}


def __getattr__(name: str) -> Any:
    """torch is imported when the engine is first used, not before."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'plural.engine' has no attribute {name!r}")
    return getattr(importlib.import_module(f"plural.engine.{_HOMES[name]}"), name)
