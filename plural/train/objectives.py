"""What is learned from a row: to say it, or to say it rather than another answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from plural.train.rows import Row


class Objective(Protocol):
    """`together` rows, one after another, are one example."""

    together: ClassVar[int]

    def count(self, rows: Sequence[Row]) -> int:
        """What a sum of losses over these rows is divided by."""
        ...

    def loss(self, rows: Sequence[Row], loss_A: Tensor) -> Tensor:
        """The sum over these rows, from the loss of each of their answer tokens."""
        ...

    def right(self, rows: Sequence[Row], loss_A: Tensor) -> int | None:
        """How many examples are as they should be; None where that means nothing."""
        ...


@dataclass(frozen=True)
class Imitation:
    """Cross-entropy, each answer token alike."""

    together: ClassVar[int] = 1

    def count(self, rows: Sequence[Row]) -> int:
        return sum(row.answer_tokens for row in rows)

    def loss(self, rows: Sequence[Row], loss_A: Tensor) -> Tensor:  # noqa: ARG002 - tokens count alike in all rows
        return loss_A.sum()

    def right(self, rows: Sequence[Row], loss_A: Tensor) -> None:  # noqa: ARG002 - a loss is no right or wrong
        return None


@dataclass(frozen=True)
class Preference:
    """Direct preference optimisation (Rafailov et al., arXiv 2305.18290) over pairs of a chosen and a rejected row.

    A row's `reference` is its loss under the weights that the training began with.
    """

    beta: float
    together: ClassVar[int] = 2

    def count(self, rows: Sequence[Row]) -> int:
        return len(rows) // 2

    def loss(self, rows: Sequence[Row], loss_A: Tensor) -> Tensor:
        return -F.logsigmoid(self.beta * self._margins(rows, loss_A)).sum()

    def right(self, rows: Sequence[Row], loss_A: Tensor) -> int:
        return int((self._margins(rows, loss_A) > 0).sum())

    def _margins(self, rows: Sequence[Row], loss_A: Tensor) -> Tensor:
        """margin_P: by how much more the chosen answer's log-probability has grown than the rejected one's."""
        gained_R = torch.tensor([row.reference for row in rows], device=loss_A.device) - row_losses(rows, loss_A)
        chosen_P, rejected_P = gained_R.view(-1, 2).unbind(1)
        return chosen_P - rejected_P


def row_losses(rows: Sequence[Row], loss_A: Tensor) -> Tensor:
    """loss_R: of each row, summed over its answer tokens."""
    return torch.stack([part.sum() for part in loss_A.split([row.answer_tokens for row in rows])])
