"""Environments of other people's programs, made once under PLURAL_PEERS: they ask for other versions than ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("PLURAL_PEERS", "~/.cache/plural/peers")).expanduser()
# Packages that the machine carries are taken from there, as in the Makefile.
_LOCAL = [f"--find-links={os.environ['PIP_FIND_LINKS']}"] if os.environ.get("PIP_FIND_LINKS") else []


def environment(name: str, *requirements: str) -> str:
    """A Python that has the requirements. Skips the test where there is none and no registry to make one from."""
    home = FOLDER / name
    made = home / "requirements.txt"
    if not made.exists() or made.read_text().split() != list(requirements):
        uv = str(Path(sys.executable).with_name("uv"))
        python = str(home / "bin" / "python")
        _run(name, uv, "venv", "-q", "--clear", str(home))
        _run(name, uv, "pip", "install", "-q", "--python", python, *_LOCAL, *requirements)
        made.write_text("\n".join(requirements))
    return str(home / "bin" / "python")


def source(name: str, requirement: str) -> Path:
    """The unpacked source distribution of a package. Skips the test where there is no registry to take it from."""
    home = FOLDER / name
    found = list(home.glob(f"{requirement.replace('==', '-')}/"))
    if not found:
        home.mkdir(parents=True, exist_ok=True)
        options = ["--no-deps", "--no-binary", ":all:", "-q", "-d", str(home)]
        _run(name, sys.executable, "-m", "pip", "download", *options, requirement)
        archive = home / f"{requirement.replace('==', '-')}.tar.gz"
        _run(name, "tar", "-xzf", str(archive), "-C", str(home))
        found = [home / requirement.replace("==", "-")]
    return found[0]


def _run(name: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{FOLDER / name} could not be made; is there a registry? {done.stderr.strip()[-300:]}")
