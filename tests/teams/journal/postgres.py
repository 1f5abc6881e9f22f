"""Debian's PostgreSQL in a folder of its own, for as long as a test wants it. Not a test itself."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

_NEWEST = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))


def programs() -> Path | None:
    """Where they are, if they are here."""
    if _NEWEST:
        return _NEWEST[-1]
    found = shutil.which("postgres")
    return Path(found).parent if found and shutil.which("initdb") else None


class Postgres:
    """A server that only this machine can reach. Root may not run one: Debian's user does it then."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._who: dict[str, Any] = {"user": "postgres"} if os.getuid() == 0 else {}
        self.folder = Path(tempfile.mkdtemp(prefix="plural-postgres-", dir="/tmp"))
        if self._who:
            shutil.chown(self.folder, "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        how = ["-A", "trust", "-U", "plural", "-E", "UTF8", "--no-sync"]
        made = [programs / "initdb", "-D", self.folder / "data", *how]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd="/", **self._who)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        self._made = 0

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://plural@127.0.0.1:{self.port}/postgres"

    def new(self) -> str:
        """The URL of an empty database."""
        import psycopg

        self._made += 1
        with psycopg.connect(f"host=127.0.0.1 port={self.port} user=plural dbname=postgres", autocommit=True) as one:
            one.execute(f"CREATE DATABASE test{self._made} STRATEGY file_copy")
        return f"postgresql+psycopg://plural@127.0.0.1:{self.port}/test{self._made}"

    def start(self) -> None:
        self.begin()
        for _ in range(400):
            asked = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
            if subprocess.run(asked).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def begin(self) -> None:
        """Starts it without waiting for it."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "fsync": "off", "shared_buffers": "16MB"}
        settings |= {"unix_socket_directories": self.folder}
        said = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", *said], stderr=log, cwd="/", **self._who
            )

    def stop(self) -> None:
        """At once, whoever is connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
