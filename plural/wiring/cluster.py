"""The engine of a network whose base is computed by a cluster.

plural.scale, which knows Ray, stands above this room, because a replica there wires itself by it. So it is plugged in
by its name, as an engine from outside would be.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from plural.engine.interface import TokenEngine
    from plural.models.base import Base
    from plural.wiring.settings import Settings

_SCALE = "plural.scale"


def cluster_engine(base: Base, settings: Settings) -> TokenEngine:
    """Raises SettingsError without Ray, or for a cluster on which another base or version is deployed; MachineError for
    one that cannot be reached."""
    return cast("TokenEngine", importlib.import_module(_SCALE).connect(base, settings))
