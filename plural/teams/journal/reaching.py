"""A database that is away for a moment is waited for; one that stays away is named.

Only what may be done twice is tried again: opening a connection, and what a run's owner writes (store.py).
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from plural.errors import StorageError

T = TypeVar("T")
PATIENCE_S = 15.0  # half a lease: who comes back within it still owns its runs
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
# Words of a server that is there and means it.
_FINAL = ("authentication failed", "does not exist", "permission denied", "no pg_hba.conf entry")


def persistently(where: str, act: Callable[[], T], *, patience: float = PATIENCE_S) -> T:
    """What `act` returns, however often the database has to be reached for that. Raises StorageError, and what `act`
    raises of other kinds."""
    begun, tried = time.monotonic(), 0
    while True:
        tried += 1
        try:
            return act()
        except DBAPIError as error:
            if not is_away(error):
                raise
            pause = min(_FIRST_PAUSE_S * 2 ** (tried - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
            gone = time.monotonic() - begun
            if gone + pause > patience:
                cause = str(error.orig).strip().splitlines()[0]
                raise StorageError(
                    f"The journal {where} cannot be reached: {cause}; tried {tried} times in {gone:.0f} s.",
                    hint="Is the database running, and is its address right? Nothing was lost that was shown.",
                ) from error
            time.sleep(pause)


def is_away(error: DBAPIError) -> bool:
    """Was the database not there, rather than unwilling? A file is always there."""
    if isinstance(error.orig, sqlite3.Error):
        return False
    if error.connection_invalidated:
        return True
    final = any(word in str(error.orig) for word in _FINAL)
    return isinstance(error, OperationalError | InterfaceError) and not final
