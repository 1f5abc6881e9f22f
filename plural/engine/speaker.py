"""One way of asking the base: messages become a request, and what is drawn becomes text and tool calls.

LangChain's chat model (chat.py) and whoever puts the engine on a wire speak through it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from plural.engine.interface import TokenEngine
from plural.engine.request import Request, mixture
from plural.errors import PromptError
from plural.models.base import Base
from plural.models.chat import ChatFormat
from plural.specialists import invoked_at
from plural.types import (
    AdapterRef,
    Asked,
    CutCall,
    FinishReason,
    Grammar,
    Mixture,
    Spoken,
    TokenEvent,
    ToolCall,
)

# Characters; reading so many takes some ten milliseconds.
LONG = 16_384


@dataclass(frozen=True)
class Speaker:
    """An adapter or none, its instructions, its output grammar. See ChatPlural, which has the same fields."""

    engine: TokenEngine
    base: Base
    name: str
    adapter: AdapterRef | Mixture | None = None
    invocations: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    instructions: str = ""
    grammar: Grammar | None = None
    own_last: bool = False

    async def speak(self, asked: Asked) -> AsyncGenerator[Spoken, None]:
        """Every answer's pieces as they are drawn. Raises what `Engine.generate` raises; leaving it ends the work."""
        # Reading a long text takes a while, in which nobody else's stream shall stand still.
        request, calls = await asyncio.to_thread(self.request, asked) if _is_long(asked) else self.request(asked)
        splitters = [CallSplitter(self.base.chat if calls else None) for _ in range(asked.n)]
        drawn = _alone(self.engine.generate(request)) if asked.n == 1 else self.engine.samples(request, asked.n)
        # Leaving this stream must end the request now, not when somebody collects the generator.
        async with aclosing(drawn) as events:
            async for which, event in events:
                text = splitters[which].add(event)
                logprob = self.logprob(event) if event.top_logprobs else None
                if event.finish is None:
                    yield Spoken(which, text, (), logprob, drawn=event)
                    continue
                end = splitters[which].finish(event.finish)
                yield Spoken(
                    which, text + end.text, end.calls, logprob, end.finish, event.usage, drawn=event, cut=end.cut
                )

    async def score(self, tokens: Sequence[int]) -> list[float]:
        """The log-probability of every token but the first, given those before it."""
        return await self.engine.score(tokens, self.worn(tokens))

    def request(self, asked: Asked) -> tuple[Request, bool]:
        """What the engine is asked, and whether its answer may be tool calls."""
        chat, grammar = self.base.chat, asked.grammar or self.grammar
        calls = bool(asked.tools) and asked.tool_choice != "none"
        if calls:
            grammar = chat.tool_grammar(
                asked.tools, asked.tool_choice, parallel=asked.parallel_tool_calls, own_last=self.own_last
            )
        elif asked.tools and grammar is None and not asked.sampling.stop:  # both say where an answer ends
            grammar = chat.tool_grammar(asked.tools, "none")
        prompt = self._prompt(asked)
        worn = self.worn(prompt)
        return Request(tuple(prompt), asked.sampling, worn, grammar, asked.priority, asked.deadline), calls

    def worn(self, prompt: Sequence[int]) -> Mixture:
        """The adapters, each with where in this prompt it begins to act."""
        return tuple(replace(ref, offset=self._invoked(ref.digest, prompt)) for ref in mixture(self.adapter))

    def logprob(self, event: TokenEvent) -> dict[str, Any]:
        """As OpenAI writes a token's log-probability."""
        drawn = self._token(event.token_id, event.logprob)
        return drawn | {"top_logprobs": [self._token(token, value) for token, value in event.top_logprobs]}

    def _prompt(self, asked: Asked) -> Sequence[int]:
        if asked.messages:
            return self.base.chat.encode(
                asked.messages, asked.tools, instructions=self.instructions, own_last=self.own_last
            )
        return self.base.tokenizer.encode(asked.text) if isinstance(asked.text, str) else asked.text

    def _invoked(self, digest: str, prompt: Sequence[int]) -> int:
        """From where on the adapter acts."""
        invocation = self.invocations.get(digest)
        if not invocation:
            return 0
        offset = invoked_at(prompt, invocation)
        if offset is None:
            raise PromptError(
                f"The prompt has nowhere the tokens {list(invocation)} that {self.name} is invoked by.",
                hint="It was trained with another chat template.",
            )
        return offset

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        tokenizer = self.base.tokenizer
        return {"token": tokenizer.decode([token]), "bytes": list(tokenizer.token_bytes(token)), "logprob": logprob}


class End(NamedTuple):
    """How an answer ends: the text and the calls that were held back, the call that is not whole, and why."""

    text: str
    calls: tuple[ToolCall, ...]
    cut: CutCall | None
    finish: FinishReason


class CallSplitter:
    """Tells a streamed tool call from streamed text. Holds text back only while it could still become a call."""

    def __init__(self, chat: ChatFormat | None) -> None:
        self._chat = chat
        self._held = ""
        self._calling = False
        self._open = chat is not None

    def add(self, event: TokenEvent) -> str:
        """What of the text so far may be shown now."""
        if not self._open or self._chat is None:
            return event.text
        self._held += event.text
        tag = self._chat.call_tag
        if self._calling or self._held.startswith(tag):
            self._calling = True
            return ""
        if tag.startswith(self._held):
            return ""
        self._open = False
        shown, self._held = self._held, ""
        return shown

    def finish(self, why: FinishReason) -> End:
        """What was held back: the rest of the text, or the calls it turned out to be. `why` is how the engine ended."""
        begun = self._calling or (why == "length" and self._held)
        if self._chat is None or not begun:
            return End(self._held, (), None, why)
        calls, cut, whole = self._chat.read_calls(self._held)
        return End("", calls, cut, "tool_calls" if whole else why)


def _is_long(asked: Asked) -> bool:
    return len(asked.text) + sum(len(message.content) for message in asked.messages) > LONG


async def _alone(events: AsyncGenerator[TokenEvent, None]) -> AsyncGenerator[tuple[int, TokenEvent], None]:
    async with aclosing(events):
        async for event in events:
            yield 0, event
