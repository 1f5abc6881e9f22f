"""What chat models, speakers and the network ask of an engine, whichever it is: ours (engine.py), or one behind HTTP
(plural/remote)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from plural.types import AdapterRef, Decision, Mixture, TokenEvent

if TYPE_CHECKING:
    from plural.engine.engine import EngineStats
    from plural.engine.request import Request


@runtime_checkable
class TokenEngine(Protocol):
    """Tokens in, tokens out. `Engine` says what each call gives and raises; another engine raises a UserError for what
    it cannot do, before the first token."""

    def generate(self, request: Request) -> AsyncGenerator[TokenEvent, None]: ...

    def samples(self, request: Request, n: int) -> AsyncGenerator[tuple[int, TokenEvent], None]: ...

    async def choose(
        self, prompt: Sequence[int], options: Sequence[str], adapter: AdapterRef | Mixture | None = None
    ) -> Decision[str]: ...

    async def score(self, tokens: Sequence[int], adapter: AdapterRef | Mixture | None = None) -> list[float]: ...

    async def embed(
        self, prompts: Sequence[Sequence[int]], *, start: int = 0, last: bool = False
    ) -> list[list[float]]: ...

    def stats(self) -> EngineStats: ...

    def pin(self, digest: str) -> None: ...

    def unpin(self, digest: str) -> None: ...

    def check(self) -> None: ...

    def close(self) -> None: ...
