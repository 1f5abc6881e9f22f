"""Supervised fine-tuning of one LoRA: one loop that yields what happens.

for event in train(base, read_examples(path), TrainSettings(), out):
    print(event)
"""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from plural.errors import NumericError, SettingsError, StorageError
from plural.models.attention import PackedAttend
from plural.models.base import Base
from plural.models.decoder import Decoder
from plural.specialists import AdapterConfig, write_adapter
from plural.train import checkpoint, rows
from plural.train.checkpoint import Progress
from plural.train.compute import choose_compute, training_decoder
from plural.train.data import Examples
from plural.train.events import Evaluated, Stepped, Trained, TrainEvent, TrainStarted
from plural.train.lora import Lora
from plural.train.settings import TrainSettings

_RECENT = 5


def train(
    base: Base, examples: Examples, settings: TrainSettings, out: Path, *, instructions: str = "", resume: bool = False
) -> Iterator[TrainEvent]:
    """Trains and writes the adapter (best held-out loss) as a PEFT directory at `out`, which must not exist yet.

    A checkpoint lies beside `out` until the training is done. `resume` goes on from it, if there is one, on the same
    curve; otherwise an old one is forgotten. Stopping the iterator or Ctrl-C leaves a checkpoint.

    Raises DataError and SettingsError before anything is trained, NumericError when the loss diverges, StorageError
    when files cannot be written.
    """
    run = _Run(base, examples, settings, out, instructions)
    if resume:
        run.resume()
    else:
        shutil.rmtree(run.work, ignore_errors=True)
    yield run.started()
    try:
        yield from run.loop()
    except KeyboardInterrupt:
        kept = run.keep()
        raise KeyboardInterrupt(f"Stopped; the checkpoint of step {kept} is kept, resume goes on from there.") from None
    except GeneratorExit:
        run.keep()
        raise
    yield run.finish()


class _Run:
    """One training. Its weights, optimiser and `progress` change together, in `_step` only."""

    def __init__(self, base: Base, examples: Examples, settings: TrainSettings, out: Path, instructions: str) -> None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise SettingsError(f"{out} exists already.", hint="Choose another place for the adapter, or remove it.")
        self.out, self.work = out, out.with_name(f".{out.name}.training")
        self.settings, self.base_name = settings, base.name
        self.duplicates = examples.duplicates
        invocation = base.chat.invocation() if settings.activated else ()
        self.split = rows.split(rows.encode(base, examples, instructions, invocation), settings)
        self.steps = settings.steps(len(self.split.train))
        self.compute = choose_compute(settings.compute, base.decoder.device)
        self.decoder: Decoder = training_decoder(base.decoder, self.compute)
        adapter = AdapterConfig(settings.rank, settings.resolved_alpha(), settings.targets, invocation=invocation)
        self.lora = Lora(base.config, adapter, seed=settings.seed, device=base.decoder.device)
        self.names = [name for name, _ in self.lora.named()]
        self.optimiser = torch.optim.AdamW(
            self.lora.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self.identity = {
            **settings.model_dump(mode="json"),
            "data": examples.sha256,
            "base": base.digest,
            "instructions": instructions,
            "compute": self.compute,
        }
        self._updating = False

    # --------------------------------------------------------------------------------------------------------- stages
    def started(self) -> TrainStarted:
        return TrainStarted(
            rows=len(self.split.train),
            holdout_rows=len(self.split.holdout),
            duplicates=self.duplicates,
            step=self.progress.step,
            steps=self.steps,
            parameters=sum(tensor.numel() for tensor in self.lora.parameters()),
            compute=self.compute,
        )

    def loop(self) -> Iterator[TrainEvent]:
        every = self.settings.look_every(self.steps)
        sitting, before = time.monotonic(), self.progress.seconds
        while True:
            done = self.progress
            last = done.step >= self.steps
            if self.split.holdout and done.looked_at < done.step and (done.step % every == 0 or last):
                yield self._evaluate()
            if last or done.stopped:
                return
            yield self._step()
            done.seconds = before + time.monotonic() - sitting
            if done.step % self.settings.checkpoint_every == 0:
                self._save()

    def finish(self) -> Trained:
        if self.best is not None:
            self.lora.restore(self.best)
        staged = self.work / "adapter"
        write_adapter(staged, self.lora.weights(), base_name=self.base_name)
        try:
            staged.replace(self.out)
            shutil.rmtree(self.work)
        except OSError as error:
            raise StorageError(f"{self.out} could not be written: {error.strerror or error}.") from error
        done = self.progress
        used = {
            **self.settings.model_dump(mode="json"),
            "alpha": self.settings.resolved_alpha(),
            "compute": self.compute,
            "evaluate_every": self.settings.look_every(self.steps),
        }
        return Trained(self.out, done.step, done.best_loss, done.tokens, done.seconds, used)

    def resume(self) -> None:
        found = checkpoint.load(self.work, self.identity)
        if found is None:
            return
        self.progress, tensors = found
        self.lora.restore(tensors)
        checkpoint.restore_optimiser(self.optimiser, self.names, tensors)
        best = {name: tensors[f"best.{name}"] for name in self.names if f"best.{name}" in tensors}
        self.best = best or None

    def keep(self) -> int:
        """Saves where the run stands, unless it was cut off in the middle of an update. Returns the step kept."""
        if not self._updating:
            self._save()
            return self.progress.step
        found = checkpoint.load(self.work, self.identity)
        return found[0].step if found else 0

    # ----------------------------------------------------------------------------------------------------------- work
    def _step(self) -> Stepped:
        done, began = self.progress, time.monotonic()
        batch = rows.batch(self.split.train, done.step, self.settings)
        answers = sum(row.answer_tokens for row in batch)
        loss = 0.0
        self.optimiser.zero_grad(set_to_none=True)
        for pack in rows.packs(batch, self.settings.tokens_at_once, self.decoder.device):
            part = self._loss(pack) / answers
            part.backward()
            loss += float(part.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.lora.parameters(), self.settings.grad_clip)
        self._check(loss, float(norm))
        rate = self.settings.rate(done.step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        tokens = sum(len(row.ids) for row in batch)
        self._updating = True
        self.optimiser.step()
        done.step += 1
        done.tokens += tokens
        self._updating = False
        seconds = time.monotonic() - began
        left = (self.steps - done.step) * (done.seconds + seconds) / done.step
        return Stepped(done.step, self.steps, loss, rate, tokens / seconds, left)

    def _loss(self, pack: rows.Pack) -> Tensor:
        """Summed over the answer tokens, in nats. The head is computed for those only."""
        attend, delta = PackedAttend(pack.lengths), functools.partial(self.lora, acts_T1=pack.acts_T1)
        x_TH = self.decoder.hidden(pack.ids, attend.positions(pack.ids.device), attend, delta)
        return F.cross_entropy(self.decoder.logits(x_TH[pack.at]), pack.following, reduction="sum")

    @torch.no_grad()
    def _evaluate(self) -> Evaluated:
        done, held = self.progress, self.split.holdout
        answers = sum(row.answer_tokens for row in held)
        packs = rows.packs(held, self.settings.tokens_at_once, self.decoder.device)
        loss = sum(float(self._loss(pack)) for pack in packs) / answers
        if not math.isfinite(loss):
            raise self._diverged("on the held-out rows is not a finite number any more")
        done.looked_at = done.step
        if done.step == 0:
            return Evaluated(0, loss, best=False)
        better = done.best_loss is None or loss < done.best_loss
        if better:
            done.best_loss, done.worse = loss, 0
            self.best = self.lora.snapshot()
        else:
            done.worse += 1
            done.stopped = done.worse >= self.settings.patience
        return Evaluated(done.step, loss, better)

    def _check(self, loss: float, norm: float) -> None:
        """Stops a training that cannot recover: not a number, or a loss that stays far above where it began."""
        done = self.progress
        if done.first_loss is None:
            done.first_loss = loss
        done.losses = [*done.losses[1 - _RECENT :], loss]
        recent = sum(done.losses) / len(done.losses)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged("is not a finite number any more")
        if len(done.losses) == _RECENT and recent > 2 * done.first_loss + 1:
            raise self._diverged(f"rose from {done.first_loss:.2f} to {recent:.2f}")

    def _diverged(self, what: str) -> NumericError:
        rate = self.settings.learning_rate
        return NumericError(
            f"The loss {what} at step {self.progress.step + 1}, with a learning rate of {rate:g}.",
            hint=f"No adapter was written. Try a learning rate of {rate / 4:g}.",
        )

    def _save(self) -> None:
        tensors: dict[str, Any] = dict(self.lora.named())
        tensors |= checkpoint.optimiser_tensors(self.optimiser, self.names)
        tensors |= {f"best.{name}": tensor for name, tensor in (self.best or {}).items()}
        checkpoint.save(self.work, self.progress, tensors, self.identity)
