"""Compiles the native kernels (plural/engine/kernels/native) when the package is built or installed.

Without a C++20 compiler, or when compiling fails, the package is built without them: the engine then computes with
torch, and `plural doctor` says so.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("plural/engine/kernels")
LIBRARY = KERNELS / "_native.so"
FLAGS = "-std=c++20 -O3 -fPIC -fvisibility=hidden -Wno-psabi -Wno-maybe-uninitialized"
# Name of a build of program.cpp -> what it is compiled for.
X86 = {"avx512vnni": "-march=x86-64-v4 -mavx512vnni", "avx2": "-march=x86-64-v3"}
ARM = {"dotprod": "-march=armv8.2-a+dotprod", "neon": ""}
OTHERS = {"portable": ""}


def compile_kernels(root: Path, library: Path | None = None, builds: Mapping[str, str] | None = None) -> None:
    """Makes `library` of `builds`: the one that is loaded, of those for this family of processors.

    Raises OSError or subprocess.CalledProcessError when there is no compiler or it fails.
    """
    library = library or root / LIBRARY
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), "c++")
    source, machine = root / KERNELS / "native", platform.machine()
    if builds is None:
        builds = X86 if machine in ("x86_64", "AMD64") else ARM if machine in ("aarch64", "arm64") else OTHERS
    held = " ".join(f"-DPLURAL_HAS_{name}" for name in builds)
    with tempfile.TemporaryDirectory() as folder:
        jobs = {
            f"{folder}/{name}.o": f"{compiler} {FLAGS} {flags} -DPLURAL_ISA={name} -c program.cpp -o {folder}/{name}.o"
            for name, flags in builds.items()
        }
        jobs[f"{folder}/dispatch.o"] = f"{compiler} {FLAGS} {held} -c dispatch.cpp -o {folder}/dispatch.o"
        running = [(job, subprocess.Popen(shlex.split(job), cwd=source)) for job in jobs.values()]
        failed = [(process.returncode, job) for job, process in running if process.wait()]
        if failed:
            raise subprocess.CalledProcessError(*failed[0])
        made = Path(folder) / LIBRARY.name
        subprocess.run([*shlex.split(compiler), "-shared", "-pthread", "-o", str(made), *jobs], check=True)
        beside = library.with_suffix(".new")
        shutil.copy(made, beside)
        beside.replace(library)  # a process that runs keeps the library it has loaded


class KernelHook(BuildHookInterface):  # type: ignore[misc]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version
        try:
            compile_kernels(Path(self.root))
        except (OSError, subprocess.CalledProcessError) as error:
            (Path(self.root) / LIBRARY).unlink(missing_ok=True)  # one that was made of other sources is no use
            self.app.display_warning(f"The native kernels were not built, the engine will use torch: {error}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
