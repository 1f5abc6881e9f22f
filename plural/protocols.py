"""Where rooms that may not import each other meet. `wiring.py` joins the two sides.

Chat models are langchain-core's `BaseChatModel`; these are the few things it has no word for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from plural.types import Decision, Grammar, Message, ToolSpec

if TYPE_CHECKING:
    from langchain_core.language_models import LanguageModelInput


@runtime_checkable
class Chooser(Protocol):
    """Draws one of `options` as the next assistant message; returns every option's probability (they sum to 1)."""

    async def achoose(self, messages: LanguageModelInput, options: Sequence[str]) -> Decision[str]: ...


@runtime_checkable
class Embedder(Protocol):
    """Reads texts with the base. One vector a text, all of one length, unit norm."""

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]: ...


@runtime_checkable
class Constrainable(Protocol):
    """A chat model that can hold its output to a grammar: `model.bind(grammar=...)`.

    It also takes `logprobs=n` and then puts the tokens' log-probabilities into `response_metadata["logprobs"]`, in
    OpenAI's form; and `own_last=True`: what one model alone is told (its instructions, its tools) then stands after the
    messages, so that all models that read the same messages find them in the cache.
    """

    grammar: Grammar | None


class Answerer(Protocol):
    """Answers one conversation. What evals score: a base, a specialist, an agent, a team."""

    async def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
        """With tools, calls are answered as the JSON list of `{"name", "arguments"}`."""
        ...


class Checker(Protocol):
    """Score in [0, 1] of `answer` against the row's `expected` answer."""

    def __call__(self, answer: str, expected: str) -> float: ...
