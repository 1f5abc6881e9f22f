"""Examples as token rows: encoded, split and ordered. All of it is a pure function of data and seed."""

from __future__ import annotations

import collections
import functools
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from plural.errors import DataError, PromptError, SettingsError
from plural.models.base import Base
from plural.train.data import Examples
from plural.train.settings import TrainSettings


@dataclass(frozen=True)
class Row:
    """Token ids, and for each whether it is part of an answer. The adapter acts from position `offset` on.

    It is the example of line `line`, or a turn of it. Of a preference, `reference` is its loss under the weights that
    the training began with.
    """

    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    prompt: str = ""
    offset: int = 0
    line: int = 0
    reference: float = 0.0

    @functools.cached_property
    def targets(self) -> tuple[int, ...]:
        """The positions that are learned. The last of them, and what follows it, is never computed."""
        return tuple(place for place in range(1, len(self.ids)) if self.learn[place])

    @property
    def answer_tokens(self) -> int:
        return len(self.targets)

    @property
    def before(self) -> tuple[int, ...]:
        """What the base reads before the adapter acts."""
        return self.ids[: self.offset]

    @property
    def acting(self) -> tuple[int, ...]:
        """What is computed with the adapter."""
        return self.ids[self.offset : self.targets[-1]] if self.targets else ()


@dataclass(frozen=True)
class Split:
    train: tuple[Row, ...]
    holdout: tuple[Row, ...]


def encode(base: Base, examples: Examples, instructions: str, invocation: Sequence[int] = ()) -> list[Row]:
    """A row for each example; with `invocation`, for each assistant turn, which then is all that is learned of it. Of a
    preference, whose last turn is all that is learned of it, the chosen row and then the rejected one.

    Raises DataError naming every line whose row is longer than the context or that the template refuses.
    """
    rows: list[Row] = []
    problems: list[tuple[int, str]] = []
    for example in examples.rows:
        for messages in example.endings:
            try:
                ids, learn = base.chat.encode_example(messages, example.tools, instructions=instructions)
                row = Row(tuple(ids), tuple(learn), example.prompt, line=example.line)
                turns = list(_turns(row, tuple(invocation))) if invocation else [row]
            except PromptError as error:
                problems.append((example.line, str(error)))
                break
            if len(ids) > base.context:
                problems.append((example.line, f"has {len(ids)} tokens; the context of {base.name} is {base.context}"))
                break
            rows += turns if example.rejected is None else [_last_turn(turns[-1])]
    if problems:
        raise DataError(str(examples.source), problems, hint="Nothing was trained.")
    return rows


def _turns(row: Row, invocation: tuple[int, ...]) -> Iterator[Row]:
    """What an activated adapter has read and written at the end of each turn: the turns before are the base's."""
    for start, stop in _runs(row.learn):
        offset = start - len(invocation)
        if row.ids[offset:start] != invocation:
            raise PromptError("The chat template opens this turn otherwise than others.", hint="Train a plain LoRA.")
        learn = (False,) * start + (True,) * (stop - start)
        yield Row(row.ids[:stop], learn, row.prompt, offset, row.line)


def _last_turn(row: Row) -> Row:
    *_, (start, _) = _runs(row.learn)
    return replace(row, learn=(False,) * start + row.learn[start:])


def _runs(learn: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """(start, stop) of every run of True."""
    at = 0
    for value, run in itertools.groupby(learn):
        length = len(list(run))
        if value:
            yield at, at + length
        at += length


def split(rows: Sequence[Row], settings: TrainSettings) -> Split:
    """Holds out whole prompts, drawn by the seed: the same examples, whether their turns are rows or they are.

    Raises SettingsError when nothing would be left to train on.
    """
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    random.Random(settings.seed).shuffle(prompts)
    examples = {(row.prompt, row.line) for row in rows}
    wanted = max(1, min(settings.holdout_rows, round(settings.holdout * len(examples)))) if settings.holdout else 0
    sizes = collections.Counter(prompt for prompt, _ in examples)
    held: set[str] = set()
    count = 0
    for prompt in prompts[:-1]:  # one is always left to train on
        if count >= wanted:
            break
        held.add(prompt)
        count += sizes[prompt]
    found = Split(
        tuple(row for row in rows if row.prompt not in held), tuple(row for row in rows if row.prompt in held)
    )
    if wanted and not held:
        raise SettingsError(
            f"holdout is {settings.holdout}, which leaves none of the {len(prompts)} prompts to train on.",
            hint="Set holdout to 0 or give more prompts.",
        )
    return found


def batch(rows: Sequence[Row], step: int, settings: TrainSettings, together: int = 1) -> list[Row]:
    """The rows of a step, counted from 0: every epoch is a new order of all examples, without a gap between epochs.
    An example is so many rows `together`.
    """
    examples = len(rows) // together
    start = step * settings.batch_rows
    chosen: list[Row] = []
    order: list[int] = []
    epoch = -1
    for place in range(start, start + settings.batch_rows):
        if place // examples != epoch:
            epoch = place // examples
            order = list(range(examples))
            random.Random(f"{settings.seed}/{epoch}").shuffle(order)
        first = order[place % examples] * together
        chosen += rows[first : first + together]
    return chosen
