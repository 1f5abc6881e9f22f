"""Fine-tuning of LoRAs on one frozen base, one or many at once: one loop that yields what happens.

for event in train(base, [Course("tickets", read_examples(path))], folder):
    print(event)
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from plural.errors import NumericError, SettingsError
from plural.models.base import Base
from plural.train import passes
from plural.train.compute import choose_compute, training_decoder
from plural.train.course import Course
from plural.train.events import Diverged, TrainEvent
from plural.train.learner import Learner
from plural.train.objectives import row_losses
from plural.train.prompts import PromptStates
from plural.train.race import Race
from plural.train.rows import Row, encode
from plural.train.settings import PassSettings


def train(
    base: Base, courses: Sequence[Course], out: Path, settings: PassSettings | None = None, *, resume: bool = False
) -> Iterator[TrainEvent]:
    """Trains a specialist for each course and writes its adapter (best held-out loss) as a PEFT directory `out`/name.

    All are trained at once: every round is a step of each that is not done yet, in passes over the base that hold rows
    of all. Each becomes what it would have become alone. Courses of one sweep are candidates, of which only the best
    goes all the way; it is written as `out`/sweep.

    Checkpoints lie in `out`/.training. `resume` goes on from them, on the same curves; otherwise they are forgotten.
    Stopping the iterator or Ctrl-C leaves checkpoints.

    Raises DataError and SettingsError before anything is trained, StorageError when files cannot be written, and at the
    very end NumericError when the loss of a specialist diverged; the others are trained and written by then.
    """
    school = _School(base, courses, out, settings or PassSettings())
    yield from school.begin(resume=resume)
    try:
        yield from school.rounds()
    except KeyboardInterrupt:
        kept = ", ".join(f"{learner.name} at step {learner.save()}" for learner in school.active)
        raise KeyboardInterrupt(f"Stopped; kept: {kept}. Resume goes on from there.") from None
    except GeneratorExit:
        for learner in school.active:
            learner.save()
        raise
    if school.diverged:
        raise NumericError(
            " ".join(event.message for event in school.diverged), hint=" ".join(e.hint for e in school.diverged)
        )


class _School:
    """The learners that are not done, and what they share: the base, kept prompts, the pass."""

    def __init__(self, base: Base, courses: Sequence[Course], out: Path, settings: PassSettings) -> None:
        _check_names(courses)
        self.settings = settings
        device = base.decoder.device
        compute = choose_compute(settings.compute, device)
        self.decoder = training_decoder(base.decoder, compute)
        encoded = _encoded(base, courses)
        self.active = [Learner(base, each, rows, out, compute) for each, rows in zip(courses, encoded, strict=True)]
        candidates: dict[str, list[Learner]] = {}
        for course, learner in zip(courses, self.active, strict=True):
            if course.sweep:
                candidates.setdefault(course.sweep, []).append(learner)
        self.races = {one: race for race in itertools.starmap(Race, candidates.items()) for one in race.learners}
        self.diverged: list[Diverged] = []
        self.prompts = PromptStates(
            self.decoder,
            (row.before for learner in self.active for row in (*learner.split.train, *learner.split.holdout)),
            memory=settings.prompt_megabytes * 2**20,
            at_once=settings.tokens_at_once,
        )

    def begin(self, *, resume: bool) -> list[TrainEvent]:
        for learner in self.active:
            learner.begin(resume=resume)
        self._leave()
        self._refer()
        return [learner.started() for learner in self.active]

    @torch.no_grad()
    def _refer(self) -> None:
        """Gives those who learn preferences the losses of their rows under their first weights; candidates that start
        alike share them.
        """
        known: dict[tuple[int, str], Tensor] = {}
        for learner in (learner for learner in self.active if learner.wants_reference):
            key = (id(learner.encoded), "" if learner.start is None else learner.start.digest)
            if key not in known:
                packs = passes.packs([passes.Work(learner.lora, learner.encoded)], self.settings.tokens_at_once)
                found = (one for pack in packs for one in passes.losses(self.decoder, self.prompts, pack))
                known[key] = torch.cat([row_losses(one.part.rows, one.loss_A) for one in found])
            learner.refer(known[key])

    def rounds(self) -> Iterator[TrainEvent]:
        count = 0
        while True:
            due = [learner for learner in self.active if learner.wants_look or learner.wants_measure]
            if due:
                yield from self._look(due)
            for race in dict.fromkeys(self.races.values()):
                yield from race.halve()
            self._leave()
            for learner in [learner for learner in self.active if learner.done and self._decided(learner)]:
                trained = learner.write()
                self.active.remove(learner)
                if (won := self.races.get(learner)) is not None:
                    yield won.result()
                yield trained
            if not self.active:
                return
            yield from self._step([learner for learner in self.active if not (learner.done or self._waits(learner))])
            count += 1
            if count % self.settings.checkpoint_every == 0:
                for learner in self.active:
                    learner.save()

    def _leave(self) -> None:
        self.active = [learner for learner in self.active if not learner.progress.beaten]

    def _decided(self, learner: Learner) -> bool:
        """Whether it is written when it is done: a candidate only when no other one can win any more."""
        return learner not in self.races or self.races[learner].decided

    def _waits(self, learner: Learner) -> bool:
        return learner in self.races and self.races[learner].holds(learner)

    def _step(self, learners: Sequence[Learner]) -> list[TrainEvent]:
        """One step of every learner; what is told is told when all have made it."""
        began = time.monotonic()
        batches = [learner.batch() for learner in learners]
        counts = [learner.objective.count(batch) for learner, batch in zip(learners, batches, strict=True)]
        loss, computed = [0.0] * len(learners), [0] * len(learners)
        work = [_work(learner, batch) for learner, batch in zip(learners, batches, strict=True)]
        for pack in passes.packs(work, self.settings.tokens_at_once):
            found = passes.losses(self.decoder, self.prompts, pack)
            objectives = [
                learners[one.part.number].objective.loss(one.part.rows, one.loss_A) / counts[one.part.number]
                for one in found
            ]
            passes.backward(found, objectives)
            for one, objective in zip(found, objectives, strict=True):
                loss[one.part.number] += float(objective.detach())
                computed[one.part.number] += one.computed
        failed = {i: error for i, learner in enumerate(learners) if (error := self._update(learner, loss[i]))}
        seconds = time.monotonic() - began
        events: list[TrainEvent] = []
        for i, (learner, batch) in enumerate(zip(learners, batches, strict=True)):
            if i in failed:
                events.append(self._stop(learner, failed[i]))
            else:
                events.append(learner.stepped(sum(len(row.ids) for row in batch), computed[i], seconds))
        return events

    def _update(self, learner: Learner, loss: float) -> NumericError | None:
        try:
            learner.update(loss)
        except NumericError as error:
            return error
        return None

    @torch.no_grad()
    def _look(self, due: Sequence[Learner]) -> list[TrainEvent]:
        """The held-out loss of those whose turn it is, by their own looks or by a sweep's rungs."""
        began = time.monotonic()
        loss: list[float] = [0.0] * len(due)
        right: list[int | None] = [None] * len(due)
        work = [_work(learner, learner.split.holdout) for learner in due]
        for pack in passes.packs(work, self.settings.tokens_at_once):
            for one in passes.losses(self.decoder, self.prompts, pack):
                i, objective = one.part.number, due[one.part.number].objective
                loss[i] += float(objective.loss(one.part.rows, one.loss_A))
                if (found := objective.right(one.part.rows, one.loss_A)) is not None:
                    right[i] = (right[i] or 0) + found
        seconds = time.monotonic() - began
        events: list[TrainEvent] = []
        for i, learner in enumerate(due):
            mean = loss[i] / learner.objective.count(learner.split.holdout)
            try:
                if learner.wants_look:
                    events.append(learner.look(mean, right[i], seconds))
                if learner.wants_measure:
                    learner.measure(mean)
            except NumericError as error:
                events.append(self._stop(learner, error))
        return events

    def _stop(self, learner: Learner, error: NumericError) -> Diverged:
        self.active.remove(learner)
        told = Diverged(learner.name, learner.progress.step, error.message, error.hint)
        if self._decided(learner):
            self.diverged.append(told)
        else:
            learner.give_up()
        return told


def _work(learner: Learner, rows: Sequence[Row]) -> passes.Work:
    return passes.Work(learner.lora, rows, learner.objective.together)


def _check_names(courses: Sequence[Course]) -> None:
    """Candidates of one sweep share the name of what is written, all others have names of their own."""
    names = [course.name for course in courses]
    written = [*dict.fromkeys(course.sweep for course in courses if course.sweep)]
    written += [course.name for course in courses if not course.sweep]
    for each in (names, written):
        twice = next((name for name in each if each.count(name) > 1), None)
        if twice:
            raise SettingsError(f"Two specialists are called {twice!r}.")
    if not names:
        raise SettingsError("There is nothing to train.")


def _encoded(base: Base, courses: Sequence[Course]) -> Iterator[list[Row]]:
    """The rows of each; candidates that read the same examples share them."""
    made: dict[tuple[int, str, bool], list[Row]] = {}
    for course in courses:
        activated = course.resolved(base.config).activated
        key = (id(course.examples), course.instructions, activated)
        if key not in made:
            invocation = base.chat.invocation() if activated else ()
            made[key] = encode(base, course.examples, course.instructions, invocation)
        yield made[key]
