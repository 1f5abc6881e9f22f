"""One specialist in the making: its rows, weights, optimiser and progress, and when it is done. It computes no pass."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plural.errors import NumericError, SettingsError, StorageError
from plural.models.base import Base
from plural.specialists import AdapterConfig, check_name, write_adapter
from plural.train import checkpoint, rows
from plural.train.checkpoint import Progress
from plural.train.compute import Compute
from plural.train.course import Course
from plural.train.events import Evaluated, Stepped, Trained, TrainStarted
from plural.train.lora import Lora
from plural.train.objectives import Imitation, Objective, Preference
from plural.train.rows import Row

WORK = ".training"
_RECENT = 5


class Learner:
    """Weights, optimiser and `progress` change together, in `update` only; cut off in the middle, it is not `whole`."""

    def __init__(self, base: Base, course: Course, encoded: Sequence[Row], out: Path, compute: Compute) -> None:
        self.name, self.encoded, self.start = check_name(course.name), encoded, course.start
        self.path = out / check_name(course.sweep or course.name)
        self.kept_at = out / WORK / f"{course.name}.safetensors"
        self.base_name, self.compute = base.name, compute
        self.duplicates = course.examples.duplicates
        self.settings = settings = course.resolved(base.config)
        self.objective: Objective = Imitation() if settings.beta is None else Preference(settings.beta)
        self.split = rows.split(encoded, settings)
        self.steps = settings.steps(len(self.split.train) // self.objective.together)
        self.look_every = settings.look_every(self.steps)
        adapter = AdapterConfig(
            settings.rank,
            settings.resolved_alpha(),
            settings.targets,
            use_rslora=settings.rslora,
            invocation=base.chat.invocation() if settings.activated else (),
        )
        self.lora = Lora(base.config, adapter, seed=settings.seed, device=base.decoder.device)
        if course.start is not None:
            self.lora.load(course.start)
        self.optimiser = torch.optim.AdamW(
            [self.lora.flat], lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.progress = Progress()
        self.reference_R: Tensor | None = None
        self.best: Tensor | None = None
        self.whole = True
        self.rungs: tuple[int, ...] = ()
        self.identity: dict[str, Any] = {
            **settings.model_dump(mode="json"),
            "data": course.examples.sha256,
            "base": base.digest,
            "instructions": course.instructions,
            "compute": compute,
            **({} if course.start is None else {"start": course.start.digest}),
        }

    # -------------------------------------------------------------------------------------------------- where it stands
    @property
    def wants_look(self) -> bool:
        done = self.progress
        due = done.step % self.look_every == 0 or done.step >= self.steps
        return bool(self.split.holdout) and done.looked_at < done.step and due

    @property
    def wants_measure(self) -> bool:
        """Whether it has come to a rung."""
        return len(self.progress.rungs) < sum(rung <= self.progress.step for rung in self.rungs)

    def loss_at(self, rung: int) -> float | None:
        """The best held-out loss until the rung, counted from 0; None if it has not come there."""
        done = self.progress
        return done.rungs[rung] if rung < len(done.rungs) else (done.best_loss if done.stopped else None)

    def last_loss(self) -> float | None:
        done = self.progress
        return done.rungs[-1] if done.beaten and done.rungs else done.best_loss

    @property
    def done(self) -> bool:
        return self.progress.stopped or self.progress.step >= self.steps

    def batch(self) -> list[Row]:
        return rows.batch(self.split.train, self.progress.step, self.settings, self.objective.together)

    def started(self) -> TrainStarted:
        return TrainStarted(
            name=self.name,
            rows=len(self.split.train) // self.objective.together,
            holdout_rows=len(self.split.holdout) // self.objective.together,
            duplicates=self.duplicates,
            step=self.progress.step,
            steps=self.steps,
            parameters=self.lora.flat.numel(),
            compute=self.compute,
        )

    def trained(self) -> Trained:
        done = self.progress
        used = {
            **self.settings.model_dump(mode="json"),
            "alpha": self.settings.resolved_alpha(),
            "compute": self.compute,
            "evaluate_every": self.look_every,
        }
        return Trained(self.name, self.path, done.step, done.best_loss, done.tokens, done.seconds, used)

    @property
    def wants_reference(self) -> bool:
        """Whether it learns preferences and does not know yet what it made of the rows before."""
        return self.objective.together > 1 and self.reference_R is None

    # ---------------------------------------------------------------------------------------------------------- changes
    def refer(self, reference_R: Tensor) -> None:
        """Takes the losses of all encoded rows under the first weights, which are then kept for good."""
        self.reference_R = reference_R
        known = zip(self.encoded, reference_R.tolist(), strict=True)
        self.split = rows.split([replace(row, reference=loss) for row, loss in known], self.settings)

    def update(self, loss: float) -> None:
        """One step of the optimiser, with the gradient that has been gathered. Raises NumericError."""
        done, flat = self.progress, self.lora.flat
        assert flat.grad is not None  # it lives as long as the weights
        norm = float(torch.linalg.vector_norm(flat.grad))
        if norm > self.settings.grad_clip:
            flat.grad.mul_(self.settings.grad_clip / (norm + 1e-6))  # as torch.nn.utils.clip_grad_norm_ has it
        recent = [*done.losses[1 - _RECENT :], loss]
        self._check(recent, norm)
        self.optimiser.param_groups[0]["lr"] = self.settings.rate(done.step, self.steps)
        self.whole = False
        self.optimiser.step()
        self.lora.stale = True
        done.step += 1
        done.losses = recent
        if done.first_loss is None:
            done.first_loss = loss
        self.whole = True

    def stepped(self, tokens: int, computed: int, seconds: float) -> Stepped:
        """What the last update was, and what it took."""
        done = self.progress
        done.tokens += tokens
        done.seconds += seconds
        rate, left = self.settings.rate(done.step - 1, self.steps), self.steps - done.step
        return Stepped(
            self.name,
            step=done.step,
            of=self.steps,
            loss=done.losses[-1],
            learning_rate=rate,
            tokens_per_second=tokens / seconds,
            seconds_left=left * done.seconds / done.step,
            computed=computed,
        )

    def look(self, loss: float, right: int | None, seconds: float) -> Evaluated:
        """Takes the held-out loss of the weights as they are, and how many examples are right where that is counted.
        Weights that nothing was learned into yet are no result, but those of an adapter that is trained further are.

        Raises NumericError when it is no number.
        """
        done = self.progress
        done.seconds += seconds
        if not math.isfinite(loss):
            raise self._diverged("on the held-out rows is not a finite number any more")
        done.looked_at = done.step
        if done.step == 0 and self.start is None:
            return Evaluated(self.name, 0, loss, best=False)
        accuracy = None
        if right is not None and done.step > 0:  # at step 0 nothing has become likelier than before
            accuracy = right / self.objective.count(self.split.holdout)
        better = done.best_loss is None or loss < done.best_loss
        if better:
            done.best_loss, done.worse = loss, 0
            self.best = self.lora.flat.detach().clone()
        else:
            done.worse += 1
            done.stopped = done.worse >= self.settings.patience
        return Evaluated(self.name, done.step, loss, better, accuracy)

    def enter(self, rungs: tuple[int, ...], rivals: int) -> None:
        """Takes part in a sweep. What it becomes does not depend on that, but how far it comes does."""
        self.rungs = rungs
        self.identity |= {"rivals": rivals}

    def measure(self, loss: float) -> None:
        """Takes the held-out loss at the rungs it has come to: not a look, which would change when it stops early."""
        done = self.progress
        if not math.isfinite(loss):
            raise self._diverged("on the held-out rows is not a finite number any more")
        reached = sum(rung <= done.step for rung in self.rungs) - len(done.rungs)
        done.rungs += [loss if done.best_loss is None else min(loss, done.best_loss)] * reached

    def _check(self, losses: Sequence[float], norm: float) -> None:
        """Stops a training that cannot recover: not a number, or a loss that stays far above where it began."""
        first = losses[0] if self.progress.first_loss is None else self.progress.first_loss
        recent = sum(losses) / len(losses)
        if not (math.isfinite(losses[-1]) and math.isfinite(norm)):
            raise self._diverged("is not a finite number any more")
        if len(losses) == _RECENT and recent > 2 * first + 1:
            raise self._diverged(f"rose from {first:.2f} to {recent:.2f}")

    def _diverged(self, what: str) -> NumericError:
        rate = self.settings.learning_rate
        return NumericError(
            f"The loss of {self.name} {what} at step {self.progress.step + 1}, with a learning rate of {rate:g}.",
            hint=f"No adapter of it was written. Try a learning rate of {rate / 4:g}.",
        )

    # ------------------------------------------------------------------------------------------------------------- disk
    def begin(self, *, resume: bool) -> None:
        """Takes up the checkpoint, or forgets it. Raises SettingsError where something lies in the adapter's place."""
        found = checkpoint.load(self.kept_at, self.identity) if resume else None
        if found is not None and found[0].beaten:
            self.progress = found[0]
            return
        if found is not None and found[0].written:
            if self.path.exists():
                self.progress = found[0]
                return
            found = None
        if found is not None:
            self.progress, tensors = found
            if self.progress.writing:  # cut off before it could be said that it is whole
                shutil.rmtree(self.path, ignore_errors=True)
            self.lora.set(tensors["weights"])
            if "reference" in tensors:
                self.refer(tensors["reference"])
            self.best = tensors.get("best")
            moments = {key.removeprefix("moment."): value for key, value in tensors.items() if "moment." in key}
            state = {0: moments} if moments else {}
            self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise SettingsError(
                f"{self.path} exists already.", hint="Choose another place for the adapter, or remove it."
            )
        if found is None:
            self.kept_at.unlink(missing_ok=True)

    def save(self) -> int:
        """Keeps where it stands, unless it was cut off in the middle of an update. Returns the step that is kept."""
        if self.whole:
            tensors = {"weights": self.lora.flat.detach()}
            moments = self.optimiser.state_dict()["state"].get(0, {})
            tensors |= {f"moment.{key}": value for key, value in moments.items()}
            tensors |= {} if self.best is None else {"best": self.best}
            tensors |= {} if self.reference_R is None else {"reference": self.reference_R}
            checkpoint.save(self.kept_at, self.progress, tensors, self.identity)
            return self.progress.step
        found = checkpoint.load(self.kept_at, self.identity)
        return found[0].step if found else 0

    def give_up(self) -> None:
        """It is out of the race, for good. Its weights are not kept."""
        self.progress.beaten = True
        checkpoint.save(self.kept_at, self.progress, {}, self.identity)

    def write(self) -> Trained:
        """The adapter, at its best held-out loss; a resumed training finds it done."""
        if self.progress.written:
            return self.trained()
        self.progress.writing = True
        self.save()
        if self.best is not None:
            self.lora.set(self.best)
        staged = self.kept_at.with_suffix(".adapter")
        write_adapter(staged, self.lora.weights(), base_name=self.base_name)
        try:
            staged.replace(self.path)
        except OSError as error:
            raise StorageError(f"{self.path} could not be written: {error.strerror or error}.") from error
        checkpoint.save(self.kept_at, replace(self.progress, written=True), {}, self.identity)
        self.progress.written = True
        return self.trained()
