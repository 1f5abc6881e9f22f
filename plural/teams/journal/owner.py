"""Who works on a run: a name that says whether its process still lives, as far as this machine can tell."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
import uuid
from pathlib import Path

# A clock is only ever the database's: those of two machines need not agree.
LEASE_S = 30.0  # how long an owner who says nothing keeps a run; another machine waits for it


def new_owner() -> str:
    """Machine, process, when that started, and a mark of its own for each piece of work."""
    pid = os.getpid()
    return f"{this_machine()} {pid} {_started(pid)} {uuid.uuid4().hex[:8]}"


@functools.cache
def this_machine() -> str:
    """Its name, and what tells it from others of that name: since when it runs, and which processes can be seen.
    Containers often share the first two."""
    parts = [_read("/proc/sys/kernel/random/boot_id")]
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return f"{socket.gethostname()}:{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"


def is_gone(owner: str) -> bool:
    """True when the owner was a process of this machine that is no more. Its run need not be waited for."""
    host, pid, started, _ = owner.split()
    if host != this_machine():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, under another user
    return _started(int(pid)) != started  # the number was given to another process


def _started(pid: int) -> str:
    """In clock ticks since the machine started, where the kernel tells; "-" elsewhere."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else "-"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
