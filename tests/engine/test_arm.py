"""The kernels for ARM, compiled for it here and run in an emulator: what they compute is what a build for this machine
computes. `make arm` brings compiler and emulator; the first compilation takes minutes."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("ziglang", reason="ziglang is not installed: make arm")
pytest.importorskip("qiling", reason="qiling is not installed: make arm")
pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "arm"
NATIVE = Path(__file__).parents[2] / "plural/engine/kernels/native"
ZIG = (sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-musl", "-static")
BUILDS = {"dotprod": "-mcpu=generic+dotprod", "neon": "-mcpu=generic"}


def compiled(to: Path, compiler: Sequence[str], *names: str) -> Path:
    """A program of these builds of the kernels, of which it takes the best that its processor has."""
    objects = []
    for name in names:
        flags = ["-std=c++20", "-O2", f"-DPLURAL_ISA={name}", *filter(None, [BUILDS.get(name)])]
        objects.append(str(to / f"{name}.o"))
        subprocess.run([*compiler, *flags, "-c", str(NATIVE / "program.cpp"), "-o", objects[-1]], check=True)
    held = [f"-DPLURAL_HAS_{name}" for name in names]
    sources = [str(HERE / "sample.cpp"), str(NATIVE / "dispatch.cpp")]
    made = to / "sample"
    flags = ["-std=c++20", "-O2", f"-I{NATIVE}", "-pthread", *held]
    subprocess.run([*compiler, *flags, *sources, *objects, "-o", str(made)], check=True)
    return made


def said(command: Sequence[str]) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout.split()


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("arm"), ZIG, *BUILDS)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    compiler = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    return said([str(compiled(tmp_path_factory.mktemp("here"), [compiler], "portable"))])


@pytest.mark.parametrize("build", BUILDS)
def test_an_arm_processor_computes_what_this_one_does(arm: Path, here: list[str], build: str) -> None:
    told = said([sys.executable, str(HERE / "emulate.py"), str(arm), build])
    assert told[:2] == ["isa", build], "dispatch takes what the processor has"
    assert here[:2] == ["isa", "portable"]
    assert len(told) == len(here) > 600
    for ours, theirs in zip(told[2:], here[2:], strict=True):
        assert ours == theirs or math.isclose(float(ours), float(theirs), rel_tol=1e-5, abs_tol=1e-5)
