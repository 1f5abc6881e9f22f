"""Runs a program that must not outlive us: `python guard.py PROGRAM ARGUMENT...`.

It ends everything in its process group when its standard input does, and that happens however we end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock would be held when we end
            pass
        os.killpg(0, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    return program.wait()


if __name__ == "__main__":
    sys.exit(main())
