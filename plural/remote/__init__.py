"""Engines of other processes behind the protocol of ours: a vLLM, or another machine's `plural serve`."""

from __future__ import annotations

from plural.remote.engine import RemoteEngine
from plural.remote.settings import EngineAddress, read_address

__all__ = ["EngineAddress", "RemoteEngine", "read_address"]
