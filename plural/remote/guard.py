"""Runs a program that must not outlive us: `python guard.py PROGRAM ARGUMENT...`.

It ends everything in its process group when its standard input does, and that happens however we end. If it is itself
killed, as Ray does with what its workers have started, the program ends with it where the system is Linux.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def main() -> int:
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock would be held when we end
            pass
        os.killpg(0, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    return program.wait()


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
