"""The same network on Ray: engines as replicas of Ray Serve, the API before them, training and long tools as tasks.

Ray carries processes, placement, failure and scaling. It is the extra `ray`, imported when it is first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plural.scale.deploying import Deployed, deploy, take_down
    from plural.scale.engine import ClusterEngine, connect
    from plural.scale.settings import ScaleSettings

_HOMES = {
    "ClusterEngine": "engine",
    "Deployed": "deploying",
    "ScaleSettings": "settings",
    "connect": "engine",
    "deploy": "deploying",
    "take_down": "deploying",
}

__all__ = ["ClusterEngine", "Deployed", "ScaleSettings", "connect", "deploy", "take_down"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
