"""What is asked of the engine, and the state of one asked thing while it runs. No torch.

A job is a row of tokens of which the first `num_computed` have their keys and values in pages. What a kind of job does
with the rows it computes is its own affair; the scheduler only sees tokens still to compute.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from plural.engine.grammar import GrammarState
from plural.engine.text import TextStream
from plural.types import AdapterRef, FinishReason, Grammar, Sampling, TokenEvent, Usage


@dataclass(frozen=True, slots=True)
class Request:
    """One generation. `prompt` is token ids; `adapter` is what the tokens are read and written with."""

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    adapter: AdapterRef | None = None
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """`logprob` and `top` are of the distribution before temperature, penalties and grammar; 0 for a forced token."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


# Takes a result, or the error instead of it. False: nobody listens any more.
Sink = Callable[[object], bool]


class Job:
    """One row of tokens in the engine."""

    def __init__(self, tokens: Sequence[int], adapter: AdapterRef | None, sink: Sink) -> None:
        self.tokens = list(tokens)
        self.adapter = adapter
        self.sink = sink
        self.pages: list[int] = []
        self.num_computed = 0
        self.hashes: list[bytes] = []
        # Tokens found in the prefix cache when the job was first let in; -1 until then.
        self.cached = -1
        self.skipped = 0
        self.cancelled = False
        self.done = False

    @property
    def worn(self) -> AdapterRef | None:
        """The adapter that changes anything: at scale zero that is none."""
        return self.adapter if self.adapter is not None and self.adapter.scale != 0 else None

    @property
    def remaining(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def cacheable(self) -> bool:
        """May the job start from pages that others computed?"""
        return True

    @property
    def first_wanted(self) -> int:
        """The first position whose logits are needed: all after it are needed as well."""
        return len(self.tokens) - 1

    def wanted(self, start: int, stop: int) -> range:
        """Which of the positions start..stop-1 need logits."""
        return range(max(start, self.first_wanted), stop)

    def restart(self) -> None:
        """Everything has to be computed again; what was already handed out stays."""
        self.num_computed = 0
        self.hashes = []


class GenerateJob(Job):
    """Draws tokens until a stop condition holds."""

    def __init__(
        self, request: Request, max_tokens: int, text: TextStream, grammar: GrammarState | None, sink: Sink
    ) -> None:
        super().__init__(request.prompt, request.adapter, sink)
        self.sampling = request.sampling
        self.max_tokens = max_tokens
        self.num_prompt = len(request.prompt)
        self.text = text
        self.grammar = grammar
        self.random = random.Random(request.sampling.seed)

    @property
    def output(self) -> list[int]:
        return self.tokens[self.num_prompt :]

    def append(self, drawn: Drawn, eos_ids: frozenset[int]) -> list[TokenEvent]:
        """Takes the drawn token and those that its grammar forces after it, and says what became visible with each."""
        event = self._take(drawn, eos_ids)
        return [event] if event.finish is not None else [event, *self.forced(eos_ids)]

    def forced(self, eos_ids: frozenset[int]) -> list[TokenEvent]:
        """Takes the tokens that the grammar leaves no choice about. They cost no forward pass each: the next one reads
        them all. Who asks for log-probabilities gets every token from its logits."""
        events: list[TokenEvent] = []
        if self.grammar is not None and not self.sampling.logprobs:
            for token in self.grammar.forced():
                self.grammar.accept(token)
                if self.sampling.temperature:
                    self.random.random()  # spent on every token, so that a seed means the same either way
                events.append(self._take(Drawn(token, 0.0), eos_ids))
                if events[-1].finish is not None:
                    break
        return events

    def _take(self, drawn: Drawn, eos_ids: frozenset[int]) -> TokenEvent:
        token = drawn.token
        self.tokens.append(token)
        finish: FinishReason | None = None
        text = ""
        ends = token in self.sampling.stop_token_ids or (
            token in eos_ids and (self.grammar is not None or not self.sampling.ignore_eos)
        )
        if ends:
            finish = "stop"
        else:
            text, hit = self.text.add(token)
            if hit or (self.grammar is not None and self.grammar.complete):
                finish = "stop"
            elif len(self.tokens) - self.num_prompt >= self.max_tokens:
                finish = "length"
        if finish is not None:
            text += self.text.finish()
        completion = len(self.tokens) - self.num_prompt
        usage = None if finish is None else Usage(self.num_prompt, completion, max(self.cached, 0))
        return TokenEvent(token, text, drawn.logprob, drawn.top, finish, usage)


class ScoreJob(Job):
    """Log-probability of `tokens[start:]` and then of one of the `ends`, given what comes before."""

    def __init__(
        self, prompt: Sequence[int], answer: Sequence[int], ends: frozenset[int], adapter: AdapterRef | None, sink: Sink
    ) -> None:
        super().__init__([*prompt, *answer], adapter, sink)
        self.num_prompt = len(prompt)
        self.ends = ends
        self.logprobs: dict[int, float] = {}

    @property
    def first_wanted(self) -> int:
        return self.num_prompt - 1

    def targets(self, position: int) -> frozenset[int]:
        """Any of which may follow the token at `position`."""
        return self.ends if position + 1 == len(self.tokens) else frozenset((self.tokens[position + 1],))

    @property
    def score(self) -> float:
        return sum(self.logprobs[position] for position in sorted(self.logprobs))


class PromptJob(Job):
    """Reads the prompt that several `ScoreJob`s share; they become its children when it is read."""

    def __init__(
        self, prompt: Sequence[int], children: Sequence[ScoreJob], adapter: AdapterRef | None, sink: Sink
    ) -> None:
        super().__init__(prompt, adapter, sink)
        self.children = tuple(children)


class EmbedJob(Job):
    """Mean of the last hidden states of all tokens: every row is needed, so nothing can come from the cache."""

    def __init__(self, tokens: Sequence[int], sink: Sink) -> None:
        super().__init__(tokens, None, sink)
        self.states: list[Any] = []

    @property
    def cacheable(self) -> bool:
        return False

    @property
    def first_wanted(self) -> int:
        return len(self.tokens)

    def restart(self) -> None:
        super().restart()
        self.states = []
