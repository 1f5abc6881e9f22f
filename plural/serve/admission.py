"""How many answers may be worked on or waited for at once. Who comes on top of that is told when to come again."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator

from plural.serve.errors import WireError

# Of the mean time of an answer this share is remembered from one to the next.
_MEMORY = 0.9


class Gate:
    """Counts answers; the engine decides in which order they come. `each` is how many one API key may have inside."""

    def __init__(self, most: int, each: int | None = None) -> None:
        self.most = most
        self.each = each
        self.inside = 0
        self.refused = 0
        self._of_key: Counter[str] = Counter()
        self._seconds = 1.0

    @contextlib.contextmanager
    def place(self, key: str, answers: int = 1) -> Iterator[None]:
        """Room for so many answers, as long as it is entered. Raises WireError 429 when there is none."""
        self._check(answers, self.inside, self.most, "The server")
        if self.each is not None:
            self._check(answers, self._of_key[key], self.each, "This API key")
        self.inside += answers
        self._of_key[key] += answers
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds = _MEMORY * self._seconds + (1 - _MEMORY) * (time.monotonic() - started)
            self.inside -= answers
            self._of_key[key] -= answers
            if not self._of_key[key]:
                del self._of_key[key]

    def has_room(self, key: str) -> bool:
        """For one answer more."""
        mine = self.each is None or self._of_key[key] < self.each
        return self.inside < self.most and mine

    def _check(self, answers: int, inside: int, most: int, who: str) -> None:
        if answers > most:
            raise WireError(400, f"{answers} answers were asked for; at most {most} are worked on at once.", param="n")
        if inside + answers > most:
            self.refused += 1
            again = max(1, math.ceil(self._seconds))
            raise WireError(
                429, f"{who} works on {inside} answers, of {most} at most.", code="rate_limit_exceeded", again=again
            )
