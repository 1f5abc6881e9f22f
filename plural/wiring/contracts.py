"""Which contract a specialist is trained under: given, learned from its rows, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plural.errors import DataError, GrammarError
from plural.evals import Answer, Row, answers, broken, learn, read_contract
from plural.specialists import Contract
from plural.types import Grammar

if TYPE_CHECKING:
    from plural.models.tokenizer import Tokenizer

AUTO, NONE = "auto", "none"


@dataclass(frozen=True, slots=True)
class Settled:
    """`note` says what the contract is and where it comes from, or why there is none."""

    contract: Contract | None
    note: str


def settle(
    given: Contract | str, rows: Sequence[Row], trained: Sequence[Row], source: str, tokenizer: Tokenizer
) -> Settled:
    """The contract for these rows, of which some are trained on. `given`: a contract, "auto" (learn one from those that
    are trained on), "none", or the file of one.

    Raises DataError naming every row that breaks a given one, GrammarError for one that makes no grammar.
    """
    if given == NONE:
        return Settled(None, "no contract: answers are free text")
    if given == AUTO:
        return _learned(trained, tokenizer)
    contract = read_contract(Path(given)) if isinstance(given, str) else given
    check(contract, rows, source, tokenizer)
    return Settled(contract, f"contract, given: {describe(contract)}")


def check(contract: Contract, rows: Sequence[Row], source: str, tokenizer: Tokenizer) -> None:
    """Raises DataError naming every row whose answer the contract does not allow, or its grammar cannot draw."""
    said = answers(rows)
    problems = broken(contract, said)
    wrong = {line for line, _ in problems}
    problems += _undrawable(contract, [answer for answer in said if answer.line not in wrong], tokenizer)
    if problems:
        raise DataError(
            source,
            sorted(problems),
            hint=f"Nothing was trained. The contract is {describe(contract)}; --contract none trains without one.",
        )


def describe(contract: Contract, width: int = 300) -> str:
    source = contract.source if len(contract.source) <= width else contract.source[: width - 1] + "…"
    return f"{contract.kind} {source}"


def _learned(rows: Sequence[Row], tokenizer: Tokenizer) -> Settled:
    if any(row.tools for row in rows):
        return Settled(None, "no contract: rows with tools are held to the tools' schemas")
    said = answers(rows)
    found = learn(said)
    if found.contract is None:
        return Settled(None, f"no contract: {found.why}")
    undrawable = _undrawable(found.contract, said, tokenizer)
    if undrawable:
        line, problem = undrawable[0]
        return Settled(None, f"no contract: {found.why}, but in line {line} {problem}")
    return Settled(found.contract, f"contract, learned: {describe(found.contract)} ({found.why})")


def _undrawable(contract: Contract, said: Sequence[Answer], tokenizer: Tokenizer) -> list[tuple[int, str]]:
    """The answers that are what the contract asks for, but that no token grammar would let a model write."""
    from plural.engine.grammar import GrammarCompiler

    compiler, grammar = GrammarCompiler(tokenizer), Grammar(contract.kind, contract.source)
    compiler.start(grammar)
    stuck: dict[str, str] = {}
    for text in {answer.text for answer in said}:
        state, written = compiler.start(grammar), 0
        tokens = tokenizer.encode(text)
        with contextlib.suppress(GrammarError):
            for token in tokens:
                state.accept(token)
                written += 1
        if written < len(tokens) or not state.accepting:
            stuck[text] = tokenizer.decode(tokens[:written])
    return [
        (answer.line, f"the answer {answer.text!r:.80} cannot be drawn under the grammar after {stuck[answer.text]!r}")
        for answer in said
        if answer.text in stuck
    ]
