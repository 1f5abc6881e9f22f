"""Examples as token rows: encoded, split, ordered and packed. All of it is a pure function of data and seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plural.errors import DataError, PromptError, SettingsError
from plural.models.base import Base
from plural.train.data import Examples
from plural.train.settings import TrainSettings


@dataclass(frozen=True)
class Row:
    """Token ids, and for each whether it is part of an answer. The adapter acts from position `offset` on."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    prompt: str = ""
    offset: int = 0

    @property
    def answer_tokens(self) -> int:
        return sum(self.learn[1:])


@dataclass(frozen=True)
class Pack:
    """Rows one after another: `ids` T. `at` are the A places whose next token is learned, `following` those tokens.

    `acts_T1` is 1 where the adapter acts and 0 elsewhere; None where it acts everywhere.
    """

    ids: Tensor
    lengths: tuple[int, ...]
    at: Tensor
    following: Tensor
    acts_T1: Tensor | None


@dataclass(frozen=True)
class Split:
    train: tuple[Row, ...]
    holdout: tuple[Row, ...]


def encode(base: Base, examples: Examples, instructions: str, invocation: Sequence[int] = ()) -> list[Row]:
    """A row for each example; with `invocation`, for each assistant turn, which then is all that is learned of it.

    Raises DataError naming every line whose row is longer than the context or that the template refuses.
    """
    rows: list[Row] = []
    problems: list[tuple[int, str]] = []
    for example in examples.rows:
        try:
            ids, learn = base.chat.encode_example(example.messages, example.tools, instructions=instructions)
            row = Row(tuple(ids), tuple(learn), example.prompt)
            turns = list(_turns(row, tuple(invocation))) if invocation else [row]
        except PromptError as error:
            problems.append((example.line, str(error)))
            continue
        if len(ids) > base.context:
            problems.append((example.line, f"has {len(ids)} tokens; the context of {base.name} is {base.context}"))
        rows += turns
    if problems:
        raise DataError(str(examples.source), problems)
    return rows


def _turns(row: Row, invocation: tuple[int, ...]) -> Iterator[Row]:
    """What an activated adapter has read and written at the end of each turn: the turns before are the base's."""
    for start, stop in _runs(row.learn):
        offset = start - len(invocation)
        if row.ids[offset:start] != invocation:
            raise PromptError("The chat template opens this turn otherwise than others.", hint="Train a plain LoRA.")
        learn = (False,) * start + (True,) * (stop - start)
        yield Row(row.ids[:stop], learn, row.prompt, offset)


def _runs(learn: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """(start, stop) of every run of True."""
    at = 0
    for value, run in itertools.groupby(learn):
        length = len(list(run))
        if value:
            yield at, at + length
        at += length


def split(rows: Sequence[Row], settings: TrainSettings) -> Split:
    """Holds out whole prompts, drawn by the seed. Raises SettingsError when nothing would be left to train on."""
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    random.Random(settings.seed).shuffle(prompts)
    wanted = max(1, min(settings.holdout_rows, round(settings.holdout * len(rows)))) if settings.holdout else 0
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row.prompt] = sizes.get(row.prompt, 0) + 1
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


def batch(rows: Sequence[Row], step: int, settings: TrainSettings) -> list[Row]:
    """The rows of step `step`, counted from 0: every epoch is a new order of all rows, without a gap between epochs."""
    start = step * settings.batch_rows
    chosen: list[Row] = []
    order: list[int] = []
    epoch = -1
    for place in range(start, start + settings.batch_rows):
        if place // len(rows) != epoch:
            epoch = place // len(rows)
            order = list(range(len(rows)))
            random.Random(f"{settings.seed}/{epoch}").shuffle(order)
        chosen.append(rows[order[place % len(rows)]])
    return chosen


def packs(rows: Sequence[Row], tokens_at_once: int, device: torch.device) -> Iterator[Pack]:
    """`rows` in their order, in as few packs as `tokens_at_once` allows; a longer row is a pack of its own."""
    together: list[Row] = []
    tokens = 0
    for row in rows:
        if together and tokens + len(row.ids) > tokens_at_once:
            yield _pack(together, device)
            together, tokens = [], 0
        together.append(row)
        tokens += len(row.ids)
    if together:
        yield _pack(together, device)


def _pack(rows: Sequence[Row], device: torch.device) -> Pack:
    ids: list[int] = []
    at: list[int] = []
    following: list[int] = []
    acts: list[bool] = []
    for row in rows:
        acts += (place >= row.offset for place in range(len(row.ids)))
        for place in range(1, len(row.ids)):
            if row.learn[place]:
                at.append(len(ids) + place - 1)
                following.append(row.ids[place])
        ids += row.ids
    return Pack(
        torch.tensor(ids, device=device),
        tuple(len(row.ids) for row in rows),
        torch.tensor(at, device=device, dtype=torch.long),
        torch.tensor(following, device=device, dtype=torch.long),
        None if all(acts) else torch.tensor(acts, device=device, dtype=torch.float32)[:, None],
    )
