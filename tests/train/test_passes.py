"""One pass over rows of many: packed, with shared beginnings, with prompts that are kept. Nothing is computed twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from plural.models.attention import PackedAttend
from plural.models.base import Base
from plural.specialists import AdapterConfig
from plural.train import Course, Examples, PassSettings, Stepped, TrainSettings, read_examples, train
from plural.train.attend import RaggedAttend, Span
from plural.train.compute import answer_losses, training_decoder
from plural.train.lora import Lora
from plural.train.passes import Work, backward, losses, packs
from plural.train.prompts import PromptStates
from plural.train.rows import Row

TARGETS = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")


class OneLora:
    """A LoRA as one writes it on the blackboard, from position `offset` on, with a gradient."""

    def __init__(self, base: Base, lora: Lora, offset: int) -> None:
        self.base, self.lora, self.offset = base, lora, offset
        self.flat = lora.flat.detach().clone().requires_grad_()

    def __call__(self, layer: int, group: Any, x_TI: torch.Tensor, y_TO: torch.Tensor) -> torch.Tensor:
        held = self.lora.groups.get((layer, group))
        if held is None:
            return y_TO
        acts_T1 = (torch.arange(len(x_TI)) >= self.offset)[:, None]
        a_SI = self._part(held.a_SI)
        for i, module in enumerate(held.modules):
            a_RI = a_SI[i * self.lora.rank : (i + 1) * self.lora.rank]
            added = self.lora.scale * (x_TI @ a_RI.T @ self._part(module.b_OR).T)
            left, right = module.where.start, y_TO.shape[1] - module.where.stop
            y_TO = y_TO + F.pad(acts_T1 * added, (left, right))
        return y_TO

    def _part(self, view: torch.Tensor) -> torch.Tensor:
        start = view.storage_offset()
        return self.flat[start : start + view.numel()].view(view.shape)


def plain(base: Base, lora: Lora, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed loss and its gradient, one row alone, in plain torch."""
    delta, attend = OneLora(base, lora, row.offset), PackedAttend([len(row.ids)])
    x_TH = base.decoder.hidden(torch.tensor(row.ids), attend.positions(), attend, delta)
    at = torch.tensor(row.targets)
    loss = F.cross_entropy(base.decoder.logits(x_TH[at - 1]), torch.tensor(row.ids)[at], reduction="sum")
    (gradient,) = torch.autograd.grad(loss, delta.flat)
    return loss.detach(), gradient


def made_rows(given_rows: Sequence[tuple[int, int, int, int]], offset: bool) -> list[Row]:
    """(shared, own, answer, seed): tokens of a common beginning, of the row's own, and of its answer."""
    rows = []
    for shared, own, answer, seed in given_rows:
        draw = torch.Generator().manual_seed(seed)
        rest = torch.randint(0, 256, (own + answer,), generator=draw).tolist()
        ids = (*range(40, 40 + shared), *rest)
        learn = (False,) * (shared + own) + (True,) * answer
        rows.append(Row(ids, learn, str(seed), shared + own - 1 if offset else 0))
    return rows


SHAPES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 9), st.integers(1, 12), st.integers(0, 5)), min_size=1, max_size=5
)


@settings(max_examples=25)
@given(work=st.lists(st.tuples(SHAPES, st.booleans(), st.integers(1, 5)), min_size=1, max_size=3), small=st.booleans())
def test_packed_rows_of_many_have_the_losses_and_gradients_of_each_alone(
    tiny: Base, work: list[tuple[list[tuple[int, int, int, int]], bool, int]], small: bool
) -> None:
    decoder = training_decoder(tiny.decoder, "fp32")
    held: list[Work] = []
    for number, (shapes, offset, rank) in enumerate(work):
        lora = Lora(tiny.config, AdapterConfig(rank, 2.0, TARGETS[number:]), seed=number, device=decoder.device)
        lora.set(torch.empty_like(lora.flat).uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(number)))
        held.append(Work(lora, made_rows(shapes, offset)))
    prompts = PromptStates(
        decoder, (row.before for one in held for row in one.rows), memory=0 if small else 1 << 20, at_once=25
    )
    for _ in range(2):  # the second time, what could be kept is known
        found = [0.0] * len(held)
        for pack in packs(held, 30):
            parts = losses(decoder, prompts, pack)
            backward(parts, [part.loss_A.sum() for part in parts])
            for part in parts:
                found[part.part.number] += float(part.loss_A.detach().sum())
        for (lora, rows, _), loss in zip(held, found, strict=True):
            alone = [plain(tiny, lora, row) for row in rows]
            assert loss == pytest.approx(float(sum(one for one, _ in alone)), rel=1e-4)
            expected = sum(gradient for _, gradient in alone)
            assert lora.flat.grad is not None
            torch.testing.assert_close(lora.flat.grad, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
            lora.stale = True


def test_packs_hold_every_row_and_no_more_tokens_than_allowed(tiny: Base) -> None:
    one, other = (Lora(tiny.config, AdapterConfig(1, 2.0, TARGETS), seed=0, device=torch.device("cpu")) for _ in "ab")
    rows = [Row(tuple(range(n + 1)), (False,) + (True,) * n) for n in (3, 4, 9, 2, 2, 2)]
    made = [[(part.number, [len(row.acting) for row in part.rows]) for part in pack] for pack in packs(
        [Work(one, rows[:4]), Work(other, rows[4:])], 7)]  # fmt: skip
    assert made == [[(0, [3, 4])], [(0, [9])], [(0, [2]), (1, [2, 2])]]


def test_attention_over_fronts_has_the_gradient_of_whole_rows() -> None:
    """Two rows behind one beginning, against the same two rows written out."""
    torch.manual_seed(0)
    spans = [Span(0, 5), Span(5, 3, front := torch.arange(5).numpy()), Span(8, 9, front)]
    written = [*range(8), *range(5), *range(8, 17)]
    results = []
    for attend, places in (
        (RaggedAttend(spans, torch.device("cpu")), list(range(17))),
        (PackedAttend([8, 14]), written),
    ):
        q, k, v = (torch.randn(17, n, 8, generator=torch.Generator().manual_seed(n)) for n in (4, 2, 2))
        for tensor in (q, k, v):
            tensor.requires_grad_()
        out = attend(0, q[places], k[places], v[places])
        weight = torch.arange(17.0)[places][:, None, None]
        if places is written:
            weight[8:13] = 0  # the beginning counts once
        (out * weight).sum().backward()
        results.append([q.grad, k.grad, v.grad])
    torch.testing.assert_close(results[0], results[1])


def test_losses_of_answers_are_those_of_cross_entropy() -> None:
    torch.manual_seed(0)
    head_VH, following = torch.randn(50, 6), torch.randint(0, 50, (300,))
    at, weight = torch.randperm(400)[:300], torch.rand(300)
    results = []
    for function in (
        lambda x: answer_losses(x, at, head_VH, following),
        lambda x: F.cross_entropy(x[at] @ head_VH.T, following, reduction="none"),
    ):
        x = torch.randn(400, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
        loss = function(x)
        (loss * weight).sum().backward()
        results.append((loss.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1])


# -------------------------------------------------------------------------------------------------------- kept prompts
@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """Twelve rows over six prompts."""
    path = tmp_path_factory.mktemp("shared") / "rows.jsonl"
    rows = [{"prompt": f"tell me {n % 6}", "answer": "yes" * (1 + n % 3)} for n in range(12)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return read_examples(path)


def trained(base: Base, courses: list[Course], out: Path, **passes: Any) -> list[Stepped]:
    events = train(base, courses, out, PassSettings(compute="fp32", **passes))
    return [event for event in events if isinstance(event, Stepped)]


def test_prompts_are_computed_once_and_shared_by_all_specialists(tiny: Base, shared: Examples, tmp_path: Path) -> None:
    """Every token through the decoder is counted: each distinct prompt token once, then from the invocation on."""
    chosen = TrainSettings(activated=True, rank=2, batch_rows=6, epochs=3, holdout=0)
    courses = [Course(name, shared, chosen.model_copy(update={"seed": i})) for i, name in enumerate("ab")]
    encoded = [tiny.chat.encode_example(row.messages) for row in shared.rows]
    opening = len(tiny.chat.invocation())
    prompts = {tuple(ids[: learn.index(True) - opening]) for ids, learn in encoded}
    tokens_of_tree = len({prompt[: i + 1] for prompt in prompts for i in range(len(prompt))})
    acting = sum(opening + sum(learn) - 1 for _, learn in encoded)
    steps = trained(tiny, courses, tmp_path)
    epochs = [[event.computed for event in steps if (event.step - 1) // 2 == epoch] for epoch in range(3)]
    assert [sum(epoch) for epoch in epochs] == [2 * acting + tokens_of_tree, 2 * acting, 2 * acting]
    assert tokens_of_tree < sum(map(len, prompts)) / 2


@pytest.mark.parametrize("megabytes", [0, 1])
def test_keeping_prompts_changes_memory_and_nothing_else(
    tiny: Base, shared: Examples, tmp_path: Path, megabytes: int
) -> None:
    chosen = TrainSettings(activated=True, rank=2, batch_rows=5, max_steps=50, holdout=0, learning_rate=5e-3)
    kept = trained(tiny, [Course("a", shared, chosen)], tmp_path / "kept")
    without = trained(tiny, [Course("a", shared, chosen)], tmp_path / "without", prompt_megabytes=megabytes)
    assert [a.loss for a in without] == pytest.approx([b.loss for b in kept], rel=1e-5)
    more = sum(step.computed for step in without) - sum(step.computed for step in kept)
    assert (more > 0) == (megabytes == 0)


@pytest.mark.parametrize("kept", [0, 3, 1000])
def test_what_lay_in_memory_is_nobodys_state(tiny: Base, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Padding read states that were not computed yet: memory may hold what is no number."""
    empty, new_empty = torch.empty, torch.Tensor.new_empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **more: empty(*shape, **more).fill_(torch.nan))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *shape: new_empty(self, *shape).fill_(torch.nan))
    decoder = training_decoder(tiny.decoder, "fp32")
    most = [(5, 6, 7), (5, 6, 7, 8, 9), (5, 1)]  # of their first token are the states that lie first
    others = [(8, 9), (8, 9, 4), (8, 9, 4, 2)]
    for_a_token = 4 * tiny.config.num_layers * 2 * tiny.config.num_kv_heads * tiny.config.head_dim
    states = PromptStates(decoder, most + others, memory=kept * for_a_token, at_once=64)
    for some in (others, most, most + others):
        held = states.hold(some)
        assert held.states is not None
        for front in held.fronts:
            assert held.states[:, torch.from_numpy(front)].isfinite().all()


def test_little_memory_keeps_what_most_prompts_share(tiny: Base, shared: Examples) -> None:
    decoder = training_decoder(tiny.decoder, "fp32")
    prompts = [tuple(tiny.chat.encode(row.messages[:1])) for row in shared.rows[:6]]
    for_a_token = 4 * tiny.config.num_layers * 2 * tiny.config.num_kv_heads * tiny.config.head_dim
    states = PromptStates(decoder, prompts, memory=20 * for_a_token, at_once=64)
    first, second = states.hold(prompts), states.hold(prompts)
    assert sum(second.computed) == sum(first.computed) - 20
    assert first.states is not None
    assert second.states is not None
    torch.testing.assert_close(first.states, second.states)
