"""What is asked of the engine, and the state of one asked thing while it runs. No torch.

A job is a row of tokens of which the first `num_computed` have their keys and values in pages. What a kind of job does
with the rows it computes is its own affair; the scheduler only sees tokens still to compute.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from plural.engine.grammar import GrammarState
from plural.engine.page_pool import ROOT, page_hash
from plural.engine.text import TextStream
from plural.errors import SettingsError
from plural.types import AdapterRef, FinishReason, Grammar, Mixture, Sampling, TokenEvent, Usage


@dataclass(frozen=True, slots=True)
class Request:
    """One generation. `prompt` is token ids; `adapter` is what the tokens are read and written with: one, or several of
    which each has its scale, or none. Requests of a higher `priority` come first. With a `deadline`, seconds until the
    first token must be there, a request that cannot meet it is ended early with DeadlineError.
    """

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    adapter: AdapterRef | Mixture | None = None
    grammar: Grammar | None = None
    priority: int = 0
    deadline: float | None = None

    def __post_init__(self) -> None:
        if self.deadline is not None and not (math.isfinite(self.deadline) and self.deadline > 0):
            raise SettingsError(f"deadline is {self.deadline}; it must be seconds, more than 0.")


def mixture(adapter: AdapterRef | Mixture | None) -> Mixture:
    """In the order in which adapters are added, which is part of the result. Raises SettingsError for what cannot
    act."""
    refs = (adapter,) if isinstance(adapter, AdapterRef) else tuple(adapter or ())
    for ref in refs:
        if ref.offset < 0:
            raise SettingsError(f"The adapter's offset is {ref.offset}.", hint="It is a position: 0 or more.")
        if not math.isfinite(ref.scale):
            raise SettingsError(f"The adapter's scale is {ref.scale}.", hint="It is a number.")
    digests = [ref.digest for ref in refs]
    if len(set(digests)) < len(digests):
        raise SettingsError(
            f"An adapter is named twice in a mixture: {digests}.", hint="Give it the sum of its scales."
        )
    return tuple(sorted(refs, key=lambda ref: ref.digest))


@dataclass(frozen=True, slots=True)
class Drawn:
    """`logprob` and `top` are of the distribution before temperature, penalties and grammar; 0 for a forced token."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


# Takes a result, or the error instead of it. False: nobody listens any more.
Sink = Callable[[object], bool]


# The flow of all requests with a deadline: what they are promised is a time, so the earliest due goes first, whosoever.
DATED = "dated"


class Job:
    """One row of tokens in the engine. `worn` are those of its adapters that change anything: at scale zero none
    does."""

    priority = 0
    # When its first result must be there, on time.monotonic's clock.
    due: float | None = None

    def __init__(self, tokens: Sequence[int], adapters: Mixture, sink: Sink) -> None:
        self.tokens = list(tokens)
        self.adapters = adapters
        self.flow = "+".join(ref.digest for ref in adapters)
        self.worn = tuple(ref for ref in adapters if ref.scale)
        self.sink = sink
        self.pages: list[int] = []
        self.num_computed = 0
        self.num_registered = 0
        self._hashes: list[bytes] = []
        # Tokens found in the prefix cache when the job was first let in; -1 until then.
        self.cached = -1
        # Tokens that its flow was charged (see queue.py).
        self.num_charged = 0
        # It had begun, and waits: its adapters are held for it.
        self.held = False
        # It runs, and its adapters are on their way: it reads what is the base's.
        self.ahead = False
        self.cancelled = False
        self.done = False

    @property
    def remaining(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def most(self) -> int:
        """How many tokens it may come to have."""
        return len(self.tokens)

    @property
    def need(self) -> int:
        """How many tokens may still be computed for it."""
        return self.most - self.num_computed

    def hashes(self, size: int) -> Sequence[bytes]:
        """What identifies each of its full pages of `size` tokens."""
        while (len(self._hashes) + 1) * size <= len(self.tokens):
            end = (len(self._hashes) + 1) * size
            parent = self._hashes[-1] if self._hashes else ROOT
            self._hashes.append(page_hash(parent, self.tokens[end - size : end], end, self.worn))
        return self._hashes

    def part_hash(self, page: int, count: int, size: int) -> bytes:
        """What identifies the first `count` tokens of a page of `size`, those of all pages before it given."""
        before = self.hashes(size)[page - 1] if page else ROOT
        end = page * size + count
        return page_hash(before, self.tokens[page * size : end], end, self.worn)

    @property
    def skippable(self) -> int:
        """How many of its first tokens it need not compute where their keys and values are known: all but the last,
        whose logits are in no cache."""
        return len(self.tokens) - 1

    @property
    def bare(self) -> int:
        """How many of its first tokens the base reads, whatever adapters act after them; none of those whose logits are
        wanted."""
        return min((ref.offset for ref in self.adapters if ref.offset < self.skippable), default=self.skippable)

    @property
    def ready(self) -> int:
        """How many tokens can be computed for it now."""
        return max(0, self.bare - self.num_computed) if self.ahead else self.remaining

    @property
    def goes_on(self) -> bool:
        """Will others go on just where it ends? Its last page is then kept though it is not full."""
        return False

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
        self.num_registered = 0


class GenerateJob(Job):
    """Draws tokens until a stop condition holds."""

    def __init__(
        self, request: Request, max_tokens: int, text: TextStream, grammar: GrammarState | None, sink: Sink
    ) -> None:
        super().__init__(request.prompt, mixture(request.adapter), sink)
        self.priority = request.priority
        if request.deadline is not None:
            self.due = time.monotonic() + request.deadline
            self.flow = DATED
        self.sampling = request.sampling
        self.max_tokens = max_tokens
        self.num_prompt = len(request.prompt)
        self.text = text
        self.grammar = grammar
        seed, sampled = request.sampling.seed, request.sampling.temperature > 0
        # Who draws nothing needs no seed of the system's, which costs a call of it.
        self.random = random.Random(seed if sampled or seed is not None else 0)

    @property
    def most(self) -> int:
        return self.num_prompt + self.max_tokens

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
        self.due = None  # it has come in time
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
        self, prompt: Sequence[int], answer: Sequence[int], ends: frozenset[int], adapters: Mixture, sink: Sink
    ) -> None:
        super().__init__([*prompt, *answer], adapters, sink)
        self.num_prompt = len(prompt)
        self.ends = ends
        self.logprobs: dict[int, float] = {}

    @property
    def skippable(self) -> int:
        return self.first_wanted  # whose logits are wanted, and there are none in the cache

    @property
    def first_wanted(self) -> int:
        return self.num_prompt - 1

    def targets(self, position: int) -> frozenset[int]:
        """Any of which may follow the token at `position`."""
        return self.ends if position + 1 == len(self.tokens) else frozenset((self.tokens[position + 1],))

    def take(self, position: int, logits: Sequence[float], total: float) -> None:
        """The logits of the targets there; `total` is the logarithm of the sum of all tokens' exponentials."""
        highest = max(logits)
        self.logprobs[position] = highest + math.log(sum(math.exp(one - highest) for one in logits)) - total

    @property
    def score(self) -> float:
        return sum(self.logprobs[position] for position in sorted(self.logprobs))


class PromptJob(Job):
    """Reads the tokens that several jobs share; they go on from there when those are read.

    Logits are wanted from position `first` on, or of the last token only. Errors are told to all that wait for it.
    """

    def __init__(self, tokens: Sequence[int], children: Sequence[Job], first: int | None = None) -> None:
        super().__init__(tokens, children[0].adapters, self._tell)
        self.children = tuple(children)
        self.priority, self.due, self.flow = children[0].priority, children[0].due, children[0].flow
        self._first = len(self.tokens) - 1 if first is None else first

    @property
    def first_wanted(self) -> int:
        return self._first

    @property
    def family(self) -> list[Job]:
        """All that come after it, those that come after them included."""
        below = [job.family for job in self.children if isinstance(job, PromptJob)]
        return [*self.children, *(job for each in below for job in each)]

    @property
    def wanted_by(self) -> bool:
        """Does anybody wait for it still?"""
        return any(not (job.cancelled or job.done) for job in self.family if not isinstance(job, PromptJob))

    def _tell(self, result: object) -> bool:
        return result is None or all([job.sink(result) for job in self.family if not isinstance(job, PromptJob)])


def share(leaves: Sequence[ScoreJob], start: int) -> Job:
    """The job that reads what the first tokens of all `leaves`, alike up to `start`, have in common, and then lets them
    go their ways, again together as far as they are alike."""
    if len(leaves) == 1:
        return leaves[0]
    least, most = min(leaf.tokens for leaf in leaves), max(leaf.tokens for leaf in leaves)
    end = next((at for at in range(start, len(least)) if least[at] != most[at]), len(least))
    groups: dict[int, list[ScoreJob]] = {}
    for leaf in leaves:
        groups.setdefault(leaf.tokens[end] if len(leaf.tokens) > end else -1, []).append(leaf)
    return PromptJob(least[:end], [share(group, end) for group in groups.values()], leaves[0].num_prompt - 1)


class EmbedJob(Job):
    """Mean of the last hidden states of the tokens from `start` on, and with `last` that of the last token: those rows
    are needed, so none of them can come from the cache."""

    def __init__(self, tokens: Sequence[int], sink: Sink, start: int = 0, *, last: bool = False) -> None:
        super().__init__(tokens, (), sink)
        self.start, self.last = start, last
        self.states: list[Any] = []

    @property
    def skippable(self) -> int:
        return self.start

    @property
    def goes_on(self) -> bool:
        return True

    @property
    def first_wanted(self) -> int:
        return len(self.tokens)

    def restart(self) -> None:
        super().restart()
        self.states = []
