"""A tiny base and a library on disk, as all nodes see them, and clusters made of this machine's processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plural.models.base import load_base
from plural.scale.cluster import join, ray_module
from plural.specialists import Library
from tests.models import tiny
from tests.serve.tiny import stage_specialist

NAMES = ("clerk", "judge", "cook", "maid")


@dataclass(frozen=True)
class Home:
    """Files that are the same for all nodes."""

    folder: Path
    base: Path = field(init=False)
    library: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", self.folder / "base")
        object.__setattr__(self, "library", self.folder / "library")

    def settings(self, **more: Any) -> dict[str, Any]:
        own = {"base": self.base, "library": self.library, "cache": self.folder / "cache", "starter": False}
        return {**own, "max_tokens": 24, "threads": 1, "dtype": "fp32", **more}


def make_home(folder: Path, *, positions: int = 1024) -> Home:
    """Four specialists of a random base."""
    home = Home(folder)
    tiny.save(home.base, max_position_embeddings=positions)
    base, library = load_base(home.base), Library(home.library)
    for seed, name in enumerate(NAMES):
        made = stage_specialist(folder / f"staged-{name}", base, seed=seed, name=name)
        library.publish(made, name=name, replace=False)
    return home


def processes(title: str) -> set[int]:
    """Those of this machine that Ray gave this title."""
    found = set()
    for said in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if said.read_text(errors="replace").startswith(f"ray::{title}"):
                found.add(int(said.parent.name))
        except OSError:  # it has just ended
            continue
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def nodes(workers: int, *, cpus: int = 2) -> Iterator[Any]:
    """Ray's own cluster of several nodes on one machine: a head that computes nothing, and workers. This process is a
    part of it meanwhile."""
    ray_module()
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # Workers import the tests, too; and they are all this machine's.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        patch.setenv("RAY_worker_niceness", "5")  # nodes come before workers, and workers are not starved
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # a node that compiles all of Ray anew starts too late
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(workers):
                cluster.add_node(num_cpus=cpus)
            join(cluster.address, patience=30)
            yield cluster
        finally:
            serve.shutdown()
            ray.shutdown()
            cluster.shutdown()
