"""PEFT loads what we write and we read what PEFT writes, to the same function."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plural.specialists import (
    AdapterConfig,
    BaseShape,
    adapter_digest,
    invoked_at,
    read_adapter,
    read_invocation,
    write_adapter,
)

from .adapters import MODULES, random_weights


@pytest.fixture
def reference() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "vocab_size": 32}
    return LlamaForCausalLM(LlamaConfig(num_attention_heads=2, num_key_value_heads=1, **sizes)).eval()


CONFIGS: list[dict[str, Any]] = [
    {"r": 4, "lora_alpha": 8, "target_modules": list(MODULES)},
    {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
    {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}},
    {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["up_proj", "o_proj"],
        "rank_pattern": {"layers.1.mlp.up_proj": 6},
        "alpha_pattern": {"o_proj": 3, r".*\.1\.mlp\..*": 5},
    },
    {"r": 3, "lora_alpha": 6, "target_modules": ["k_proj", "gate_proj"], "layers_to_transform": [1]},
    {"r": 3, "lora_alpha": 6, "target_modules": r".*\.0\.self_attn\.(q|k)_proj"},
    {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "k_proj"], "exclude_modules": ["layers.0.self_attn.k_proj"]},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_we_read_what_peft_saves(reference: Any, shape: BaseShape, tmp_path: Path, config: dict[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(reference, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **config))
    model.save_pretrained(str(tmp_path))
    read = read_adapter(tmp_path, shape)
    updates = {
        name: m.get_delta_weight("default") for name, m in model.named_modules() if hasattr(m, "get_delta_weight")
    }
    assert len(updates) == len(read.tensors)
    for (layer, module), (a_RI, b_OR) in read.tensors.items():
        theirs = next(update for name, update in updates.items() if f".{layer}." in name and name.endswith(module))
        ours = read.scale_of(module, layer) * b_OR @ a_RI
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        AdapterConfig(4, 8, tuple(MODULES)),
        AdapterConfig(2, 3, ("q_proj", "down_proj"), use_rslora=True),
        AdapterConfig(4, 8, ("v_proj", "layers.1.mlp.up_proj"), {"layers.0.self_attn.v_proj": 2}, {"up_proj": 5.5}),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_peft_loads_what_we_write(
    reference: Any, shape: BaseShape, tmp_path: Path, config: AdapterConfig, dtype: Any
) -> None:
    from peft import PeftModel

    write_adapter(tmp_path, random_weights(config), base_name="tiny", dtype=dtype)
    read = read_adapter(tmp_path, shape)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(reference, str(tmp_path)).eval()
        theirs = loaded(ids).logits
        merged = loaded.unload()
        for (layer, module), (a_RI, b_OR) in read.tensors.items():
            linear = next(m for name, m in merged.named_modules() if name.endswith(module) and f".{layer}." in name)
            linear.weight += torch.from_numpy(read.scale_of(module, layer) * b_OR.astype(np.float32) @ a_RI)
        ours = merged(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (theirs.abs() > 0.01).any()


def test_an_activated_adapter_keeps_the_tokens_that_invoke_it(shape: BaseShape, tmp_path: Path) -> None:
    from peft import LoraConfig

    plain, activated, other = (
        AdapterConfig(4, 8, tuple(MODULES), invocation=tokens) for tokens in ((), (7, 8), (7, 9))
    )
    weights = random_weights(plain)
    for name, config in (("plain", plain), ("activated", activated), ("other", other)):
        write_adapter(tmp_path / name, replace(weights, config=config), base_name="tiny")
        assert read_adapter(tmp_path / name, shape).config == config
        assert read_invocation(tmp_path / name) == config.invocation
    assert LoraConfig.from_pretrained(str(tmp_path / "activated")).alora_invocation_tokens == [7, 8]
    assert len({adapter_digest(tmp_path / name) for name in ("plain", "activated", "other")}) == 3


def test_the_last_invocation_counts() -> None:
    assert invoked_at([1, 7, 8, 2, 7, 8, 7], [7, 8]) == 4
    assert invoked_at([7, 8], [7, 8]) == 0
    assert invoked_at([8, 7], [7, 8]) is None
    assert invoked_at([7], [7, 8]) is None
