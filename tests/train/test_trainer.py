"""The loss curve is that of peft and transformers; a cut-off training goes on as if it had not been."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from plural.errors import NumericError, SettingsError, StorageError
from plural.models.base import Base
from plural.models.ops import TorchOps
from plural.specialists import AdapterConfig, invoked_at, read_adapter, write_adapter
from plural.train import (
    Course,
    Evaluated,
    Examples,
    PassSettings,
    Stepped,
    Trained,
    TrainEvent,
    TrainSettings,
    TrainStarted,
    checkpoint,
    read_examples,
    train,
)
from plural.train.compute import TrainOps, training_decoder
from plural.train.lora import Lora
from plural.train.rows import encode, split
from plural.types import Message
from tests.models.tiny import PlainDelta, logits

from . import reference

QUICK: dict[str, Any] = {"rank": 4, "batch_rows": 4, "learning_rate": 1e-2}
FP32 = PassSettings(compute="fp32")


def school(
    base: Base,
    examples: Examples,
    settings: TrainSettings,
    out: Path,
    passes: PassSettings = FP32,
    instructions: str = "",
    resume: bool = False,
) -> Iterator[TrainEvent]:
    """A training of one, whose adapter is at `out`."""
    return train(base, [Course(out.name, examples, settings, instructions)], out.parent, passes, resume=resume)


def curve(events: list[Any]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Stepped)]


def compare(
    base: Base, examples: Examples, settings: TrainSettings, out: Path, steps: int, passes: PassSettings = FP32
) -> float:
    """The largest relative difference between our loss and the reference's."""
    ours = curve(list(school(base, examples, settings, out, passes)))
    invocation = base.chat.invocation() if settings.activated else ()
    adapter = AdapterConfig(
        settings.rank,
        settings.resolved_alpha(),
        settings.targets,
        use_rslora=settings.rslora,
        invocation=invocation,
    )
    start = Lora(base.config, adapter, seed=settings.seed, device=base.decoder.device).weights()
    rows = encode(base, examples, "", invocation)
    theirs = reference.losses(reference.as_transformers(base), start, rows, settings, steps)
    assert len(ours) == len(theirs) == steps
    assert abs(theirs[-1] - theirs[0]) > 0.05 * theirs[0]
    return max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("more", [{}, {"activated": True}, {"rslora": True, "targets": ("q_proj", "down_proj")}])
@pytest.mark.parametrize("at_once", [2048, 50])
def test_the_curve_is_peft_and_transformers_on_a_tiny_base(
    tiny: Base, examples: Examples, tmp_path: Path, at_once: int, more: dict[str, Any]
) -> None:
    settings = TrainSettings(**QUICK, holdout=0, max_steps=20, **more)
    passes = PassSettings(compute="fp32", tokens_at_once=at_once)
    assert compare(tiny, examples, settings, tmp_path / "out", 20, passes) < 1e-4


@pytest.mark.slow
def test_the_curve_is_peft_and_transformers_on_the_real_base(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rooms = ("kitchen", "hall", "cellar", "attic", "garage")
    rows = [
        {"prompt": f"light {n} in the {rooms[n % 5]}", "answer": json.dumps({"on": n, "in": rooms[n % 5]})}
        for n in range(30)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    settings = TrainSettings(batch_rows=1, learning_rate=1e-3, holdout=0, max_steps=20)
    assert compare(base, read_examples(path), settings, tmp_path / "out", 20) < 1e-3


def test_the_operations_have_the_gradients_of_plain_torch() -> None:
    torch.manual_seed(0)
    weight_H, w_OI = torch.rand(8, dtype=torch.double), torch.rand(6, 8, dtype=torch.double)
    for call in (
        lambda ops, x: ops.rms_norm(x.float().double(), weight_H, 1e-5),
        lambda ops, x: ops.silu_mul(x),
        lambda ops, x: ops.linear(x, w_OI, w_OI[:, 0]),
    ):
        results = []
        for ops in (TrainOps(), TorchOps()):
            x = torch.linspace(-2, 2, 40, dtype=torch.double).reshape(5, 8).requires_grad_()
            y = call(ops, x)
            (y * torch.arange(y.numel()).reshape(y.shape)).sum().backward()
            results.append((y.detach(), x.grad))
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_bf16_follows_fp32_and_only_changes_the_linears(tiny: Base, examples: Examples, tmp_path: Path) -> None:
    curves = {}
    for compute in ("fp32", "bf16"):
        settings = TrainSettings(**QUICK, max_steps=15)
        events = list(school(tiny, examples, settings, tmp_path / compute, PassSettings.of(compute=compute)))
        assert isinstance(events[0], TrainStarted)
        assert events[0].compute == events[-1].settings["compute"] == compute
        curves[compute] = curve(events)
    assert curves["fp32"] != curves["bf16"]
    assert curves["bf16"] == pytest.approx(curves["fp32"], rel=0.1)
    weights = training_decoder(tiny.decoder, "bf16").weights
    assert (weights.norm_H.dtype, weights.embed_VH.dtype, weights.layers[0].qkv_OI.dtype) == (
        torch.float32,
        torch.float32,
        torch.bfloat16,
    )


def test_it_learns_and_writes_the_best_weights(tiny: Base, examples: Examples, tmp_path: Path) -> None:
    settings = TrainSettings(**QUICK, epochs=8, evaluate_every=10)
    events = list(school(tiny, examples, settings, tmp_path / "out", instructions="Add."))
    started, trained = events[0], events[-1]
    looks = [event for event in events if isinstance(event, Evaluated)]
    assert isinstance(started, TrainStarted)
    assert isinstance(trained, Trained)
    assert (started.rows, started.holdout_rows) == (36, 4)
    assert looks[0].step == 0
    assert trained.best_loss == min(look.holdout_loss for look in looks[1:]) < looks[0].holdout_loss
    assert sorted(path.name for path in tmp_path.iterdir()) == [".training", "out"]
    weights = read_adapter(tmp_path / "out", tiny.shape)
    assert weights.config.rank == 4
    assert weights.scale_of("q_proj") == 2
    assert held_out_loss(tiny, examples, settings, weights) == pytest.approx(trained.best_loss, rel=1e-3)


@pytest.mark.parametrize("rslora", [False, True])
def test_what_is_trained_activated_has_the_same_logits_in_peft(
    tiny: Base, examples: Examples, tmp_path: Path, rslora: bool
) -> None:
    from peft import PeftModel

    settings = TrainSettings(**QUICK, activated=True, rslora=rslora, max_steps=10)
    list(school(tiny, examples, settings, tmp_path / "out"))
    weights = read_adapter(tmp_path / "out", tiny.shape)
    pairs = {key: [torch.from_numpy(array).float() for array in pair] for key, pair in weights.tensors.items()}
    model = reference.as_transformers(tiny).eval()
    tuned = PeftModel.from_pretrained(model, str(tmp_path / "out")).eval()
    for said in ("3 and 3?", "9 and 2?<|im_start|>assistant\nsum 11."):
        ids = [*tiny.chat.encode([Message("user", said)]), *tiny.tokenizer.encode("sum 6.")]
        start = invoked_at(ids, weights.config.invocation)
        assert start is not None
        delta = PlainDelta(tiny.config, pairs, weights.scale_of("q_proj"), start)
        with torch.no_grad():
            theirs = tuned(torch.tensor([ids])).logits[0]
            with tuned.disable_adapter():
                bare = tuned(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(logits(tiny, ids, delta), theirs, atol=1e-4, rtol=1e-4)
        assert (theirs - bare)[:start].abs().max() < 1e-5
        assert (theirs - bare)[start:].abs().max() > 0.01  # the adapter does act


def held_out_loss(base: Base, examples: Examples, settings: TrainSettings, weights: Any) -> float:
    """Of an adapter read back from disk, through plain torch."""
    pairs = {key: [torch.from_numpy(array).float() for array in pair] for key, pair in weights.tensors.items()}
    delta = PlainDelta(base.config, pairs, weights.scale_of("q_proj"))
    losses: list[float] = []
    for row in split(encode(base, examples, "Add."), settings).holdout:
        log_TV = torch.log_softmax(logits(base, row.ids, delta), -1)
        losses += [-float(log_TV[place - 1, row.ids[place]]) for place in row.targets]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("interrupt", ["close", "keyboard", "kill"])
def test_a_cut_off_training_goes_on_with_the_same_curve(
    tiny: Base, examples: Examples, tmp_path: Path, interrupt: str
) -> None:
    settings, passes = TrainSettings(**QUICK, max_steps=12, evaluate_every=4), PassSettings(checkpoint_every=3)
    whole = list(school(tiny, examples, settings, tmp_path / "whole", passes))
    events = school(tiny, examples, settings, tmp_path / "cut", passes)
    for event in events:
        if isinstance(event, Stepped) and event.step == 7:
            break
    if interrupt == "close":
        events.close()  # type: ignore[attr-defined]
    elif interrupt == "keyboard":
        with pytest.raises(KeyboardInterrupt, match="cut at step 7"):
            events.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
    else:
        # What a kill leaves: the last periodic checkpoint and nothing newer.
        kept = tmp_path / ".training" / "cut.safetensors"
        content = kept.read_bytes()
        events.close()  # type: ignore[attr-defined]
        kept.write_bytes(content)
    assert not (tmp_path / "cut").exists()
    rest: list[Any] = list(school(tiny, examples, settings, tmp_path / "cut", passes, resume=True))
    assert rest[0].step == (6 if interrupt == "kill" else 7)
    assert curve(rest) == curve(whole)[rest[0].step :]
    assert rest[-1].best_loss == whole[-1].best_loss
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_kill_while_the_adapter_is_written_is_made_good(
    tiny: Base, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter lies in its place, and nobody could say so. And what was taken away afterwards is made anew."""
    settings, save = TrainSettings(**QUICK, max_steps=4), checkpoint.save

    def killed(path: Path, progress: checkpoint.Progress, *rest: Any) -> None:
        if progress.written:
            raise KeyboardInterrupt
        save(path, progress, *rest)

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt, match="out at step 4"):
        list(school(tiny, examples, settings, tmp_path / "out"))
    monkeypatch.undo()
    first = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    for steps_left in (0, 4):
        events = list(school(tiny, examples, settings, tmp_path / "out", resume=True))
        assert sum(isinstance(event, Stepped) for event in events) == steps_left
        assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == first
        shutil.rmtree(tmp_path / "out")


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """Files can be no larger than that: a disk that fills in the middle of one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_for_which_there_is_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    path, many = tmp_path / "kept.safetensors", {"weights": torch.ones(10_000)}
    checkpoint.save(path, checkpoint.Progress(step=3), {"weights": torch.ones(10)}, {})
    with room(8192), pytest.raises(StorageError, match=r"kept\.safetensors could not be written: .*large") as caught:
        checkpoint.save(path, checkpoint.Progress(step=4), many, {})
    assert caught.value.hint == "Free some space and resume."
    found = checkpoint.load(path, {})
    assert found is not None
    assert found[0].step == 3
    assert [one.name for one in tmp_path.iterdir()] == ["kept.safetensors"]


def test_an_adapter_for_which_there_is_no_room_leaves_the_one_before(
    tiny: Base, examples: Examples, tmp_path: Path
) -> None:
    list(school(tiny, examples, TrainSettings(**QUICK, max_steps=2), tmp_path / "out"))
    before = {one.name: one.read_bytes() for one in (tmp_path / "out").iterdir()}
    weights = read_adapter(tmp_path / "out", tiny.shape)
    with room(4096), pytest.raises(StorageError, match=r"out could not be written: .*large") as caught:
        write_adapter(tmp_path / "out", weights, base_name="tiny", dtype="float32")
    assert caught.value.hint == "Free some space."
    assert {one.name: one.read_bytes() for one in (tmp_path / "out").iterdir()} == before


def test_resuming_with_other_settings_is_refused_by_name(tiny: Base, examples: Examples, tmp_path: Path) -> None:
    settings = TrainSettings(**QUICK, max_steps=6)
    events = school(tiny, examples, settings, tmp_path / "out")
    for event in events:
        if isinstance(event, Stepped) and event.step == 2:
            break
    events.close()  # type: ignore[attr-defined]
    for other, instructions in ((settings.model_copy(update={"seed": 5}), ""), (settings, "Other.")):
        with pytest.raises(SettingsError, match=r"seed = 0.*5|instructions = ''.*'Other\.'"):
            next(school(tiny, examples, other, tmp_path / "out", instructions=instructions, resume=True))
    # From the beginning, the old checkpoint is forgotten.
    started = next(school(tiny, examples, settings.model_copy(update={"seed": 5}), tmp_path / "out"))
    assert isinstance(started, TrainStarted)
    assert started.step == 0


def test_a_few_rows_are_read_often_enough_and_looked_at_on_the_way() -> None:
    """Three passes over forty examples were 6 steps, after which a sorter of three classes was right in 15 of 32."""
    chosen = TrainSettings()
    assert chosen.steps(32) == 40
    assert chosen.look_every(40) == 8
    assert chosen.steps(8_000) == 3_000
    assert chosen.look_every(3_000) == 40
    assert TrainSettings(epochs=1).steps(32) == 4
    assert TrainSettings(max_steps=10).steps(32) == 10


def test_it_stops_early(tiny: Base, examples: Examples, tmp_path: Path) -> None:
    """With a rate that changes nothing the first look stays the best one."""
    settings = TrainSettings(**{**QUICK, "learning_rate": 1e-12}, epochs=100, evaluate_every=1, patience=2)
    events: list[Any] = list(school(tiny, examples, settings, tmp_path / "out"))
    looks = [event for event in events if isinstance(event, Evaluated)]
    assert [(look.step, look.best) for look in looks] == [(0, False), (1, True), (2, False), (3, False)]
    assert (events[-1].steps, events[-1].best_loss) == (3, looks[1].holdout_loss)


def test_a_loss_that_diverges_names_the_learning_rate(tiny: Base, examples: Examples, tmp_path: Path) -> None:
    settings = TrainSettings(**{**QUICK, "learning_rate": 0.9}, alpha=1e38, epochs=50, decay="none", grad_clip=1e9)
    with pytest.raises(NumericError, match=r"learning rate of 0\.9.*0\.225"):
        list(school(tiny, examples, settings, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_taken_is_refused(tiny: Base, examples: Examples, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingsError, match="exists already"):
        next(school(tiny, examples, TrainSettings(), tmp_path / "out"))
