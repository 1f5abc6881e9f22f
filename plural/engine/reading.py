"""Reads requests for the router as the base is asked them, so that whoever then answers goes on where reading ended.

A request stands in the chat template as it does in front of the base, and of an activated specialist that has no
instructions of its own: up to the turn that answers, their tokens are the same. The reading's keys and values stay in
the prefix cache, so the answer computes what comes after them and nothing else. A specialist with instructions reads
these first, and so the request for itself: all of the starter library have some.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from plural.engine.interface import TokenEngine
from plural.errors import PromptError
from plural.models.base import Base
from plural.types import Message

# Requests that have no letter in common: what is before them is the template's.
_PROBES = ("a", "0", "?")


class RequestReader:
    """A `protocols.Embedder`: of each text the base's mean final state over the request and what ends its turn, and the
    state at that end, together at unit norm. For a base without a chat template the text is read bare."""

    def __init__(self, engine: TokenEngine, base: Base) -> None:
        self._engine, self._base = engine, base
        self._begun = False

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        if not texts:
            return []
        start = self._start
        if start and not self._begun:
            self._begun = True  # once: the template's own beginning is then known to its last token
            await self._engine.embed([self.prompt(texts[0])[:start]])
        return await self._engine.embed([self.prompt(text) for text in texts], start=start, last=True)

    def prompt(self, text: str) -> list[int]:
        """What is read of a request: all that its answer's prompt has before the assistant's turn."""
        chat = self._base.chat
        if chat.template is None:
            return self._base.tokenizer.encode(text)
        ids = chat.encode([Message("user", text)])
        return ids[: len(ids) - self._opening]

    @cached_property
    def _opening(self) -> int:
        """How many tokens open the assistant's turn; none where the template marks no beginning of it."""
        try:
            return len(self._base.chat.invocation())
        except PromptError:
            return 0

    @cached_property
    def _start(self) -> int:
        """How many tokens of a prompt the template has before the request."""
        if self._base.chat.template is None:
            return 0
        first, *others = [self.prompt(probe) for probe in _PROBES]
        return next(at for at, token in enumerate(first) if any(other[at] != token for other in others))
