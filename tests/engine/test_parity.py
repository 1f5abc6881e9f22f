"""Tokens and logits of transformers and peft, on the real base, in fp32, all of it in one mixed batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from plural.engine import Engine, EngineSettings, Request
from plural.engine.batch import Batch
from plural.engine.kernels.interface import Result
from plural.engine.request import GenerateJob, mixture
from plural.models.config import MODULES
from plural.specialists.peft_files import read_adapter
from plural.types import AdapterRef, Mixture, Sampling

from .tiny import collect, drive

PROMPTS = ("The capital of France is", "def fibonacci(n):\n", "Water boils at")
TOKENS = 10
ADAPTERS: dict[str, dict[str, Any]] = {
    "all": {"r": 16, "lora_alpha": 32, "target_modules": list(MODULES)},
    "some": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "use_rslora": True},
    "activated": {"r": 16, "lora_alpha": 32, "target_modules": list(MODULES)},
    "wide": {"r": 64, "lora_alpha": 16, "target_modules": list(MODULES)},
    "ranks": {"r": 8, "target_modules": list(MODULES), "rank_pattern": {"gate_proj": 3, "k_proj": 12}},
}


@pytest.fixture(scope="module")
def wrapped(
    base: Any, reference: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, dict[str, Path]]]:
    """transformers' Llama with peft's adapters, random in A and B, and the directories that peft wrote."""
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(0)
    model: PeftModel | None = None
    for name, options in ADAPTERS.items():
        invocation = list(base.chat.invocation()) if name == "activated" else None
        config = LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=invocation, **options)
        if model is None:
            model = get_peft_model(reference, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    assert model is not None
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.add_weighted_adapter(["all", "some"], [0.7, -0.3], "mixture", combination_type="cat")
    root = tmp_path_factory.mktemp("adapters")
    model.save_pretrained(root, save_embedding_layers=False, selected_adapters=list(ADAPTERS))
    yield model.eval(), {name: root / name for name in ADAPTERS}
    model.unload()


@torch.inference_mode()
def their_logits(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """After the prompt and after each token of the answer but the last, from one pass over it all."""
    return model(torch.tensor([[*prompt, *answer[:-1]]])).logits[0, len(prompt) - 1 :]


def watched(engine: Engine) -> dict[tuple[tuple[int, ...], Mixture], list[torch.Tensor]]:
    """The rows of logits that the engine computes, by prompt and adapters, in order."""
    seen: dict[tuple[tuple[int, ...], Mixture], list[torch.Tensor]] = {}
    run = engine._runner.run

    def running(batch: Batch) -> Result:
        result = run(batch)
        for row, wanted in enumerate(batch.wanted):
            assert isinstance(wanted.job, GenerateJob)
            key = (tuple(wanted.job.tokens[: wanted.job.num_prompt]), wanted.job.adapters)
            seen.setdefault(key, []).append(result.logits_RV[row].clone())
        return result

    engine._runner.run = running  # type: ignore[method-assign]
    return seen


def worn(refs: dict[str, AdapterRef], name: str | None, before: list[int]) -> AdapterRef | Mixture | None:
    if name is None:
        return None
    if name == "mixture":
        return (replace(refs["all"], scale=0.7), replace(refs["some"], scale=-0.3))
    return replace(refs[name], offset=len(before)) if name == "activated" else refs[name]


async def test_base_and_adapters_equal_transformers_and_peft(base: Any, wrapped: Any) -> None:
    model, directories = wrapped
    weights = {found.digest: found for found in (read_adapter(path, base.shape) for path in directories.values())}
    refs = dict(zip(ADAPTERS, map(AdapterRef, weights), strict=True))
    prompts = {prompt: (*base.tokenizer.encode(prompt), *base.chat.invocation()) for prompt in PROMPTS}
    settings = EngineSettings(step_tokens=32, dtype="fp32")
    engine = Engine(base.decoder, base.tokenizer, weights.__getitem__, settings, start=False)
    logits = watched(engine)
    cases = [(prompt, name) for prompt in PROMPTS for name in (None, *ADAPTERS, "mixture")]
    sampling = Sampling(max_tokens=TOKENS, ignore_eos=True)
    ours = await drive(
        engine,
        *(
            collect(engine, Request(prompts[prompt], sampling, worn(refs, name, base.tokenizer.encode(prompt))))
            for prompt, name in cases
        ),
    )
    outputs = set()
    for (prompt, name), events in zip(cases, ours, strict=True):
        assert not isinstance(events, BaseException), events
        ids, answer = list(prompts[prompt]), [event.token_id for event in events]
        if name is None:
            with model.disable_adapter():
                expected_TV = their_logits(model, ids, answer)
        else:
            model.set_adapter(name)
            expected_TV = their_logits(model, ids, answer)
        assert answer == expected_TV.argmax(dim=-1).tolist(), (prompt, name)
        ours_TV = torch.stack(logits[tuple(ids), mixture(worn(refs, name, base.tokenizer.encode(prompt)))])
        # The farthest of 49,152 logits; fp64 is 4e-5 from ours and 5e-5 from theirs, on the average of these rows.
        worst = float((ours_TV - expected_TV).abs().max())
        assert worst < 1e-4, (prompt, name, worst)
        logprobs = torch.log_softmax(expected_TV, dim=-1).amax(dim=-1).tolist()
        assert [event.logprob for event in events] == pytest.approx(logprobs, abs=1e-4)
        outputs.add((prompt, tuple(event.token_id for event in events)))
    assert len(outputs) > len(PROMPTS)  # the adapters did change something
