"""What an engine may be asked: every check of a request that needs none of its pages, and the job that it becomes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from plural.engine.grammar import GrammarCompiler, check_writable
from plural.engine.request import GenerateJob, Request, Sink
from plural.engine.text import TextStream
from plural.errors import GrammarError, PoolError, PromptError, SettingsError
from plural.models.tokenizer import Detokenizer, Tokenizer


def check_prompt(prompt: Sequence[int], *, answer: int, context: int, vocabulary: int) -> None:
    """There must be room for `answer` tokens after the prompt. Raises PromptError."""
    if not prompt:
        raise PromptError("The prompt is empty.", hint="Give it at least one token.")
    if len(prompt) + answer > context:
        raise PromptError(f"The prompt has {len(prompt)} tokens, the context has {context} in all.", hint="Shorten it.")
    for token in prompt:
        if not 0 <= token < vocabulary:
            raise PromptError(f"Token id {token} is not in the vocabulary of {vocabulary}.")


def check_options(options: Sequence[str], tokenizer: Tokenizer) -> None:
    """Raises GrammarError for options that are none, and PromptError where no answer has an end."""
    if not options or len(set(options)) != len(options) or not all(options):
        raise GrammarError(f"Options must be non-empty and differ from each other, got {list(options)!r}.")
    if not tokenizer.eos_ids:
        raise PromptError("The base has no end-of-turn token, so no answer has an end.", hint="Use a chat model.")
    check_writable(options, tokenizer)


def check_endings(request: Request) -> None:
    """Raises SettingsError for a request that says twice where it ends."""
    if request.grammar is not None and (request.sampling.stop or request.sampling.stop_token_ids):
        raise SettingsError(
            "A request has a grammar and stop strings or tokens.", hint="The grammar says where it ends."
        )


class Intake:
    """Of our engine, whose pool has `room` for so many tokens."""

    def __init__(
        self, tokenizer: Tokenizer, grammars: GrammarCompiler, *, context: int, vocabulary: int, room: int
    ) -> None:
        self._tokenizer, self._grammars = tokenizer, grammars
        self._context, self._vocabulary, self._room = context, vocabulary, room

    def check(self, prompt: Sequence[int], answer: int = 0) -> None:
        """A prompt, with so many tokens after it. Raises PromptError and PoolError."""
        check_prompt(prompt, answer=answer, context=self._context, vocabulary=self._vocabulary)
        self._check_pool(len(prompt) + answer)

    async def job(self, request: Request, sink: Sink) -> GenerateJob:
        """Raises what `check` raises, SettingsError and GrammarError."""
        prompt = request.prompt
        check_prompt(prompt, answer=1, context=self._context, vocabulary=self._vocabulary)
        max_tokens = min(request.sampling.max_tokens, self._context - len(prompt))
        self._check_pool(len(prompt) + max_tokens)
        check_endings(request)
        grammar = request.grammar
        matcher = None if grammar is None else await asyncio.to_thread(self._grammars.start, grammar)
        text = TextStream(Detokenizer(self._tokenizer), request.sampling.stop)
        return GenerateJob(request, max_tokens, text, matcher, sink)

    def _check_pool(self, tokens: int) -> None:
        # One token more: that is how much room a job is let in with.
        if tokens + 1 > self._room:
            raise PoolError(
                f"The request needs room for {tokens + 1} tokens, the KV pool has {self._room}.",
                hint="Ask for fewer tokens or raise kv_tokens.",
            )
