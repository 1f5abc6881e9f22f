"""Servers in processes of their own, which can be killed. Not a test itself.

As a program it forks a server for each line that it reads, so that each starts in a moment. A line says where it keeps
its own files, what its tools change, and where its runs are written. The server prints its address and its process's
number, and when that has ended, this prints how.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path

from tests.serve.desk import desk
from tests.serve.tiny import served, tiny_network


def serve(folder: Path, world: Path, journal: str) -> None:
    network = tiny_network(folder / "home", max_tokens=8, journal=journal)
    with served(network, records=folder / "records.sqlite", offers=desk(network, world)) as running:
        print(running.url, os.getpid(), flush=True)
        threading.Event().wait()


def main() -> None:
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            try:
                folder, world, journal = line.split()
                serve(Path(folder), Path(world), journal)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
