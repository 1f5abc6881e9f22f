"""Who works on a run: a name that says whether its process still lives, as far as this machine can tell."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

LEASE_S = 30.0  # how long an owner who says nothing keeps a run; another machine waits for it


def new_owner() -> str:
    """Machine, process, when that started, and a mark of its own for each piece of work."""
    pid = os.getpid()
    return f"{socket.gethostname()} {pid} {_started(pid)} {uuid.uuid4().hex[:8]}"


def is_gone(owner: str) -> bool:
    """True when the owner was a process of this machine that is no more. Its run need not be waited for."""
    host, pid, started, _ = owner.split()
    if host != socket.gethostname():
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
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "-"
