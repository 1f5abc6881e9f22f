"""A server in a process of its own, which can be killed: `python -m tests.serve.killable_server FOLDER`. Not a test."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.serve.desk import desk
from tests.serve.tiny import served, tiny_network


def main() -> None:
    folder = Path(sys.argv[1])
    network = tiny_network(folder / "home", max_tokens=8, journal=folder / "journal.db")
    with served(network, records=folder / "records.sqlite", offers=desk(network, folder)) as running:
        print(running.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
