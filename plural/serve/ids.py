"""Ids of what the server makes: random, 96 bits of them."""

from __future__ import annotations

import os
import threading

_BYTES = 12
_STORE = 170 * _BYTES


class _Randomness:
    """Read from the system for many ids at once: at each call of the system the thread that computes goes first, and
    the event loop waits for its turn."""

    def __init__(self) -> None:
        self._bytes = b""
        self._lock = threading.Lock()

    def take(self) -> bytes:
        with self._lock:
            if not self._bytes:
                self._bytes = os.urandom(_STORE)
            taken, self._bytes = self._bytes[:_BYTES], self._bytes[_BYTES:]
        return taken


_randomness = _Randomness()


def fresh(kind: str) -> str:
    """A new id, as `req_5f0c...`: the kind as it is written, and 24 digits."""
    return f"{kind}{_randomness.take().hex()}"
