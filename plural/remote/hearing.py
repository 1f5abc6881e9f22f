"""What comes back: chunks of /v1/completions become the events that our engine gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plural.engine.request import Request
from plural.engine.text import TextStream
from plural.errors import EngineLost, MachineError, SettingsError
from plural.models.tokenizer import Detokenizer, Tokenizer
from plural.types import FinishReason, TokenEvent, Usage

_ENDS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}


class Hearing:
    """`n` answers to one request. The last event of each is kept back until it is known what all was worth."""

    def __init__(self, request: Request, n: int, tokenizer: Tokenizer, url: str) -> None:
        self._url = url
        self._prompt = len(request.prompt)
        self._ends = set(request.sampling.stop_token_ids)
        if request.grammar is not None or not request.sampling.ignore_eos:
            self._ends |= tokenizer.eos_ids
        self._texts = [TextStream(Detokenizer(tokenizer), request.sampling.stop) for _ in range(n)]
        self._tops = request.sampling.logprobs
        self._counts = [0] * n
        self._last: dict[int, TokenEvent] = {}
        self._cached = 0

    @property
    def heard(self) -> int:
        """How many tokens."""
        return sum(self._counts)

    def add(self, chunk: Mapping[str, Any]) -> Iterator[tuple[int, TokenEvent]]:
        """(which, event) of all tokens in it. Raises MachineError for what is no answer."""
        if "error" in chunk:
            raise MachineError(f"The engine at {self._url} failed: {chunk['error']}.", hint="Its own log says more.")
        usage = chunk.get("usage") or {}
        self._cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or self._cached
        for choice in chunk.get("choices", ()):
            yield from self._choice(choice)

    def finish(self) -> Iterator[tuple[int, TokenEvent]]:
        """The last event of every answer. Raises MachineError for one that has not ended."""
        for which, count in enumerate(self._counts):
            last = self._last.get(which)
            if last is None:
                raise MachineError(f"The engine at {self._url} did not finish an answer.", hint="Ask again.")
            usage = Usage(self._prompt, count, self._cached)
            yield which, TokenEvent(last.token_id, last.text, last.logprob, last.top_logprobs, last.finish, usage)

    # ------------------------------------------------------------------------------------------------------- inside
    def _choice(self, choice: Mapping[str, Any]) -> Iterator[tuple[int, TokenEvent]]:
        which, ids, said = choice.get("index", 0), choice.get("token_ids"), choice.get("finish_reason")
        if ids is None:
            raise SettingsError(
                f"The engine at {self._url} gives no token ids.",
                hint="It must be vLLM 0.10.2 or later, or plural serve.",
            )
        if which in self._last:
            return  # a stop string was seen here before it was seen there
        if said is not None and said not in _ENDS:
            kind = EngineLost if said == "abort" else MachineError  # what a vLLM says that is being stopped
            raise kind(f"The engine at {self._url} ended an answer with {said!r}.", hint="Its log says more.")
        values, tops = self._logprobs(choice.get("logprobs"), len(ids))
        for at, token in enumerate(ids):
            self._counts[which] += 1
            text, hit = ("", True) if token in self._ends else self._texts[which].add(token)
            finish: FinishReason | None = "stop" if hit else None
            if at == len(ids) - 1 and said is not None and finish is None:
                finish = _ENDS[said]
            event = TokenEvent(token, text, values[at], tops[at], finish)
            if finish is not None:
                self._keep(which, event)
                return
            yield which, event
        if said is not None:  # an end without a token of its own
            self._keep(which, TokenEvent(-1, "", 0.0, (), _ENDS[said]))

    def _keep(self, which: int, event: TokenEvent) -> None:
        text = event.text + self._texts[which].finish()
        self._last[which] = TokenEvent(event.token_id, text, event.logprob, event.top_logprobs, event.finish)

    def _logprobs(
        self, said: Mapping[str, Any] | None, count: int
    ) -> tuple[Sequence[float], Sequence[tuple[tuple[int, float], ...]]]:
        if said is None or len(said["token_logprobs"]) < count:
            raise SettingsError(
                f"The engine at {self._url} gives no log-probabilities.", hint="Do not start it with --max-logprobs 0."
            )
        columns = said.get("top_logprobs") or [None] * count
        return [value or 0.0 for value in said["token_logprobs"]], [self._top(column) for column in columns]

    def _top(self, column: Mapping[str, float] | None) -> tuple[tuple[int, float], ...]:
        if not self._tops or not column:
            return ()
        ranked = sorted(((token_id(name), value) for name, value in column.items()), key=lambda one: -one[1])
        return tuple(ranked[: self._tops])


def token_id(name: str) -> int:
    """Of "token_id:17"."""
    return int(name.removeprefix("token_id:"))
