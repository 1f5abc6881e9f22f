"""Text of one request as it becomes printable, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Sequence

from plural.models.tokenizer import Detokenizer


class TextStream:
    """Holds text back while it could still be the beginning of a stop string, so that none is ever shown."""

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stop = tuple(stop)
        self._held = ""
        self._stopped = False

    def add(self, token: int) -> tuple[str, bool]:
        """What may be shown after `token`, and whether a stop string was hit."""
        return self._show(self._detokenizer.add(token))

    def finish(self) -> str:
        """What was held back and turned out not to be a stop string."""
        if self._stopped:
            return ""
        shown, stopped = self._show(self._detokenizer.finish())
        return shown if stopped else shown + self._held

    def _show(self, text: str) -> tuple[str, bool]:
        self._held += text
        hits = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        self._stopped = bool(hits)
        cut = min(hits) if hits else len(self._held) - self._beginning_of_stop()
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, self._stopped

    def _beginning_of_stop(self) -> int:
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0
