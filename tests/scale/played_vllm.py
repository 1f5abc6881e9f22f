"""Stands where vLLM is looked for, and is a small server of ours: it starts in seconds. Not a test itself.

vllm serve DIRECTORY --host HOST --port PORT ...
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from pathlib import Path

from plural import Network
from tests.serve.tiny import served

# A folder in which each leaves a note of what it was given, under its process's number.
NOTES = "PLURAL_TEST_NOTES"


def install(peers: Path) -> None:
    """Where `peers` is PLURAL_PEERS, `--engine vllm` starts this."""
    program = peers / "vllm" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    root = Path(__file__).parents[2]
    program.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -m {__name__} "$@"\n')
    program.chmod(0o755)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    given, _ = parser.parse_known_args()
    notes = Path(os.environ[NOTES])
    threads = int(os.environ["OMP_NUM_THREADS"])
    library = notes / f"library-{os.getpid()}"
    options = {"cache": notes.parent / "cache", "starter": False, "dtype": "fp32", "threads": threads, "journal": None}
    with (
        Network.open(base=given.directory, library=library, **options) as network,
        served(network, host=given.host, port=given.port),
    ):
        bound = os.environ["VLLM_CPU_OMP_THREADS_BIND"]
        note = notes / f"{os.getpid()}.json"
        note.write_text(json.dumps({"threads": threads, "bound": bound, "parent": os.getppid()}))
        threading.Event().wait()


if __name__ == "__main__":
    main()
