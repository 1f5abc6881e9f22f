"""A sweep is a race: candidates learn side by side, and at every rung the worse half of them stops.

This is successive halving (Jamieson and Talwalkar, arXiv 1502.07943). The rungs lie between an eighth and half of the
steps, each a constant factor after the one before; with many candidates the first comes earlier, but never in so few
steps that it would compare how they warm up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from plural.errors import SettingsError
from plural.train.events import Halved, Swept, Tried
from plural.train.learner import Learner

_LEAST_STEPS = 16


def keeps(candidates: int) -> list[int]:
    """How many go on after each rung: half of them, rounded up, until one is left."""
    left: list[int] = []
    while candidates > 1:
        candidates = (candidates + 1) // 2
        left.append(candidates)
    return left


def rungs(steps: int, count: int) -> tuple[int, ...]:
    """After which of `steps` steps the candidates are compared, `count` times."""
    last = steps / 2
    first = max(steps / 2**count, min(_LEAST_STEPS, steps / 4))
    shares = [1.0] if count == 1 else [i / (count - 1) for i in range(count)]
    return tuple(math.ceil(first * (last / first) ** share - 1e-6) for share in shares)


class Race:
    """The candidates of one sweep. Who waits at a rung, and who has stopped, follows from their own progress, so that a
    race that was cut off goes on where it stood.
    """

    def __init__(self, name: str, learners: Sequence[Learner]) -> None:
        self.name, self.learners = name, tuple(learners)
        self._keeps = keeps(len(learners))
        held = [{row.prompt for row in learner.split.holdout} for learner in learners]
        if not all(held) or any(each != held[0] for each in held):
            raise SettingsError(
                f"The candidates of {name} are not compared on the same held-out rows.",
                hint="Hold some out, and leave seed, holdout and holdout_rows out of the sweep.",
            )
        for learner in learners:
            learner.enter(rungs(learner.steps, len(self._keeps)), rivals=len(learners) - 1)

    @property
    def standing(self) -> list[Learner]:
        return [learner for learner in self.learners if not learner.progress.beaten]

    @property
    def decided(self) -> bool:
        return len(self.standing) < 2

    def holds(self, learner: Learner) -> bool:
        """Whether it waits at a rung that others have not reached."""
        rung = self._open()
        return rung is not None and learner.loss_at(rung) is not None

    def halve(self) -> Iterator[Halved]:
        """Stops the worse half wherever all have come to a rung; of equals, who was named later."""
        while (rung := self._open()) is not None:
            losses = {learner.name: learner.loss_at(rung) for learner in self.standing}
            found = {name: loss for name, loss in losses.items() if loss is not None}
            if len(found) < len(losses):
                return
            best_first = sorted(self.standing, key=lambda learner: found[learner.name])
            stopped = best_first[self._keeps[rung] :]
            for learner in stopped:
                learner.give_up()
            yield Halved(
                self.name,
                rung=rung + 1,
                of=len(self._keeps),
                losses={learner.name: found[learner.name] for learner in best_first},
                stopped=tuple(learner.name for learner in stopped),
            )

    def result(self) -> Swept:
        """The candidates, the winner first, then who came furthest with the lowest loss."""
        tried = [Tried(one.name, one.progress.step, one.last_loss(), one.progress.beaten) for one in self.learners]
        tried.sort(key=lambda one: (one.beaten, -one.steps, float("inf") if one.loss is None else one.loss))
        return Swept(self.name, tried[0].name, tuple(tried))

    def _open(self) -> int | None:
        """The first rung, counted from 0, that more have to stop at."""
        standing = len(self.standing)
        return next((rung for rung, most in enumerate(self._keeps) if standing > most), None)
