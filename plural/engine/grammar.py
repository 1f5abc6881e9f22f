"""Token grammars by llguidance: which tokens may come next, and when the output is whole."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer

from plural.errors import GrammarError
from plural.models.tokenizer import Tokenizer
from plural.types import Grammar

# Regular expressions. A small model left free to write spaces may never stop writing them: at most what json.dumps
# writes. The compact form must be allowed, too: a specialist that was trained on it is lost in the other.
_JSON = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


class GrammarState:
    """One request's place in its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, eos_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._bits = np.zeros(-(-vocab_size // 32), np.int32)
        self._coming: Future[None] | None = None

    @property
    def complete(self) -> bool:
        """The output is valid and nothing can follow it."""
        return bool(self._matcher.is_stopped())

    @property
    def accepting(self) -> bool:
        """The output is valid as it is; more may follow it."""
        return bool(self._matcher.is_accepting())

    def allowed(self) -> np.ndarray:
        """A bool for every token. End-of-turn tokens are allowed where the output is whole."""
        if self._coming is None:
            self._bits.fill(0)
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        else:
            self._coming.result()
            self._coming = None
        self._raise_error()
        return np.unpackbits(self._bits.view(np.uint8), bitorder="little", count=self._vocab_size).view(np.bool_)

    def forced(self) -> list[int]:
        """The next tokens where the grammar leaves no choice, cut as the tokenizer cuts their text; often none."""
        tokens = self._matcher.compute_ff_tokens()
        self._raise_error()
        return list(tokens)

    def takes(self, token: int) -> bool:
        """Accepts the token if it is allowed, at a small part of what it costs to find out all that are."""
        if token in self._eos_ids:
            return self.accepting
        taken = bool(self._matcher.try_consume_tokens([token]) == 1)
        self._raise_error()
        return taken

    def accept(self, token: int) -> None:
        """Raises GrammarError if the token is not allowed: it was drawn under another mask."""
        if token in self._eos_ids and self._matcher.is_accepting():
            return
        self._matcher.consume_token(token)
        self._raise_error()

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"The grammar failed: {self._matcher.get_error()}", hint="Make the grammar simpler.")


class MasksAhead:
    """Finds out what a step's rows may draw while the step is computed: in one call, on a thread of its own, which
    needs no lock of the interpreter's."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plural-masks")
        self._executor = LLExecutor(num_threads=1)

    def begin(self, states: Sequence[GrammarState]) -> None:
        """Their next `allowed` takes what is found. Until then nothing else may be asked of them."""
        if not states:
            return
        bits = np.zeros((len(states), len(states[0]._bits)), np.int32)
        coming = self._thread.submit(self._find, [one._matcher for one in states], bits)
        for state, row in zip(states, bits, strict=True):
            state._bits, state._coming = row, coming

    def _find(self, matchers: Sequence[LLMatcher], bits: np.ndarray) -> None:
        numbered = [(matcher, row) for row, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(numbered, bits.ctypes.data, bits.shape[1] * 4, len(bits))

    def close(self) -> None:
        self._thread.shutdown()


class GrammarCompiler:
    """Compiles grammars for one tokenizer and keeps the latest. May be called from any thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._compiled = lru_cache(maxsize=128)(self._compile)

    def start(self, grammar: Grammar) -> GrammarState:
        """A fresh state. Raises GrammarError for a schema, pattern or list that makes no grammar."""
        with self._lock:
            matcher = self._compiled(grammar).deep_copy()
        return GrammarState(matcher, self._tokenizer.vocab_size, self._tokenizer.eos_ids)

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        eos = sorted(self._tokenizer.eos_ids)
        return LLTokenizer(self._tokenizer.backend.to_str(), n_vocab=self._tokenizer.vocab_size, eos_token=eos)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        check_writable(_texts(grammar), self._tokenizer)
        matcher = LLMatcher(self._vocabulary, _source(grammar), log_level=0)
        if matcher.is_error():
            error = matcher.get_error().strip().splitlines()[0]
            raise GrammarError(f"The {grammar.kind} grammar {_short(grammar.source)} is wrong: {error}.")
        return matcher


def check_writable(texts: Iterable[str], tokenizer: Tokenizer) -> None:
    """Raises GrammarError for a text that the tokenizer has no tokens for: an answer that begins with what comes before
    could not go on."""
    for text in texts:
        if missing := tokenizer.unwritable(text):
            raise GrammarError(
                f"{_short(text)} has {missing[0]!r} (U+{ord(missing[0]):04X}), which the base's vocabulary cannot "
                "write.",
                hint="Leave it out, or write it otherwise.",
            )


def _texts(grammar: Grammar) -> Iterator[str]:
    """What it may have the model write to the letter. Patterns are not looked into."""
    match grammar.kind:
        case "choices":
            yield from json.loads(grammar.source)
        case "json_schema":
            try:
                schema = json.loads(grammar.source)
            except ValueError:
                return  # who compiles it says so
            yield from (json.dumps(text, ensure_ascii=False) for text in _strings(schema))


def _strings(schema: Any) -> Iterator[str]:
    """The constants and the names of properties in a JSON Schema."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("const", "enum"):
                yield from _leaves(value)
            elif key == "properties" and isinstance(value, dict):
                yield from value
                yield from _strings(list(value.values()))
            else:
                yield from _strings(value)
    elif isinstance(schema, list):
        for one in schema:
            yield from _strings(one)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from _leaves(list(value.values()))
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)


def _source(grammar: Grammar) -> str:
    match grammar.kind:
        case "json_schema":
            try:
                schema = json.loads(grammar.source)
                return str(LLMatcher.grammar_from_json_schema(schema, defaults=_JSON))
            except (ValueError, TypeError) as error:
                raise GrammarError(f"The JSON Schema {_short(grammar.source)} is wrong: {error}.") from error
        case "regex":
            return str(LLMatcher.grammar_from_regex(grammar.source))
        case "choices":
            options = json.loads(grammar.source)
            return str(LLMatcher.grammar_from_regex("|".join(f"({_escaped(option)})" for option in options)))
        case "lark":
            return str(LLMatcher.grammar_from_lark(grammar.source))


def _escaped(text: str) -> str:
    return re.sub(r"[.^$*+?{}\[\]\\|()]", r"\\\g<0>", text)


def _short(source: str) -> str:
    return repr(source if len(source) <= 80 else source[:77] + "...")
