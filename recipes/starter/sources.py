"""Where the school's data comes from: generators and archives of packages that others made.

Two kinds of packages are used without what they depend on. The generators of `reasoning-gym` and `mathematics-dataset`
(requirements-carried.txt) are imported past their packages' own `__init__`, which want a dozen packages of other games,
and past a few names that NumPy and SymPy have dropped since 2019. Archives that are too large to install, or whose
rows must not be spread, are downloaded once by pip, checked against the hash below and read where they lie.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import os
import random
import subprocess
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sympy

ARCHIVES = Path(os.environ.get("PLURAL_SCHOOL", "~/.cache/plural/school")).expanduser()
FAR = 10_000_000
"""The seed of test rows. reasoning-gym seeds row i with seed + i, so that near seeds share rows."""


# ------------------------------------------------------------------------------------------------------------ archives
@dataclass(frozen=True)
class Archive:
    """One file of a package on PyPI, by name, version and hash. A wheel is a zip file, an sdist a tar file."""

    package: str
    version: str
    file: str
    sha256: str

    @property
    def path(self) -> Path:
        return ARCHIVES / self.file

    def fetched(self) -> Path:
        """The file, downloaded if it is not there. Raises RuntimeError for a file that is not the one we know."""
        if not self.path.exists():
            ARCHIVES.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(ARCHIVES)]
            source = [] if self.file.endswith(".whl") else ["--no-binary", self.package]
            subprocess.run([*command, *source, f"{self.package}=={self.version}"], check=True)
        if (found := hashlib.sha256(self.path.read_bytes()).hexdigest()) != self.sha256:
            raise RuntimeError(f"{self.path} has the SHA-256 {found}, not {self.sha256}: delete it to fetch it again")
        return self.path

    def read(self, member: str) -> bytes:
        """One file of the archive."""
        path = self.fetched()
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as opened:
                return opened.read(member)
        with tarfile.open(path) as opened:
            stream = opened.extractfile(member)
            assert stream is not None  # only a folder has no content
            return stream.read()


USADDRESS = Archive(
    "usaddress",
    "0.5.16",
    "usaddress-0.5.16.tar.gz",
    "f7e614e2489c159cf85be1b6f86edbfaf329dbeedef4d002a025757afd1ec6c6",
)
VADER = Archive(
    "vaderSentiment",
    "3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
EVALS = Archive(
    "evals",
    "3.0.1.post1",
    "evals-3.0.1.post1-py3-none-any.whl",
    "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
)


# ------------------------------------------------------------------------------------------------------- reasoning-gym
@functools.cache
def gym(module: str) -> types.ModuleType:
    """A module of reasoning-gym such as "arithmetic.chain_sum", without the games beside it."""
    _bare("reasoning_gym")
    _bare(f"reasoning_gym.{module.split('.')[0]}")
    return importlib.import_module(f"reasoning_gym.{module}")


def _bare(package: str) -> None:
    """Makes `package` importable without running its `__init__`, which imports everything that lies in it."""
    if package in sys.modules:
        return
    above, _, name = package.rpartition(".")
    if above:
        paths = [str(Path(path) / name) for path in sys.modules[above].__path__]
    else:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError(f"{package} is not installed: see requirements-carried.txt", name=package)
        paths = list(spec.submodule_search_locations)
    bare = types.ModuleType(package)
    bare.__path__ = paths
    sys.modules[package] = bare


# ------------------------------------------------------------------------------------------------- mathematics-dataset
_SINCE_2019 = {
    "np.object": "object",
    "coeffs.itemset(index, value)": "coeffs[index] = value",
    "expanded_coefficients.itemset(power, coeffs)": "expanded_coefficients[power] = coeffs",
    "from sympy.solvers.diophantine import": "from sympy.solvers.diophantine.diophantine import",
    # Not of 2019: a set's order is another one in every process, and so were the symbols and sentences of questions.
    "random.choice(list(allowed))": "random.choice(sorted(allowed))",
    "entities = set(context.child_entities)": "entities = dict.fromkeys(context.child_entities)",
    "entities.add(maybe_entity)": "entities.setdefault(maybe_entity)",
}
Problem = tuple[str, str]
THIRDS = 3
LEVELS = ("train-small", "train-0", "train-1", "train-2")
_LONGEST_QUESTION = 160  # the data set's own limits, which its generator asks its caller to keep
_LONGEST_ANSWER = 30


def _renewed(name: str) -> None:
    """Imports a module with its source brought up to date."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is not installed: see requirements-carried.txt", name=name)
    source = Path(spec.origin).read_text(encoding="utf-8")
    for old, new in _SINCE_2019.items():
        source = source.replace(old, new)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(source, spec.origin, "exec"), module.__dict__)  # the package's own code, a few names renewed
    parent, _, last = name.rpartition(".")
    setattr(importlib.import_module(parent), last, module)


@functools.cache
def _modules(split: str) -> dict[str, Callable[[], Any]]:
    """Every module of one of DeepMind's splits: train-0 (easy) to train-2 (hard), or interpolate.

    train-small, which is ours, has less entropy than the easiest: as little as a step of a composed question has.
    """
    if "mathematics_dataset.sample.polynomials" not in sys.modules:
        for name in ("sample.polynomials", "util.composition"):
            _renewed(f"mathematics_dataset.{name}")
    made = importlib.import_module("mathematics_dataset.modules.modules")
    if split == "interpolate":
        nested = made.test()
    elif split == "train-small":
        nested = made.train(lambda entropy: (entropy[0] / 2, entropy[0]))
    else:
        part = int(split.removeprefix("train-"))

        def third(entropy: tuple[float, float]) -> tuple[float, float]:
            low, length = entropy[0], entropy[1] - entropy[0]
            return low + length * part / THIRDS, low + length * (part + 1) / THIRDS

        nested = made.train(third)
    return {f"{area}__{name}": make for area, group in nested.items() for name, make in group.items()}


def problems(module: str, split: str, count: int, seed: int) -> list[Problem]:
    """`count` questions of a module, no longer than the data set's limits, with their answers.

    The same seed gives the same rows.
    """
    make = _modules(split)[module]
    before = random.getstate(), np.random.get_state(), sympy.core.random.rng.getstate()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    sympy.core.random.rng.seed(seed)
    found: list[Problem] = []
    try:
        while len(found) < count:
            problem = make()
            question, answer = str(problem.question), str(problem.answer)
            if len(question) <= _LONGEST_QUESTION and len(answer) <= _LONGEST_ANSWER:
                found.append((question, answer))
    finally:  # the generators draw from the state that everybody shares
        random.setstate(before[0])
        np.random.set_state(before[1])
        sympy.core.random.rng.setstate(before[2])
    return found


def in_all_levels(modules: Sequence[str], count: int, seed: int = 0) -> list[Problem]:
    """About `count` different training questions, as many of each module and of each level."""
    each = -(-count // (len(modules) * len(LEVELS)))
    found: dict[str, str] = {}
    for module in modules:
        for level, split in enumerate(LEVELS):
            found.update(problems(module, split, each, seed + level))
    return list(found.items())
