"""Every way in which an adapter can be wrong has an error that names it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from plural.errors import NumericError, SpecialistError, StorageError
from plural.specialists import AdapterConfig, BaseShape, adapter_digest, mapped, read_adapter, write_adapter

from .adapters import MODULES, random_weights

Q_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
Q_B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"


def change_config(path: Path, **changes: Any) -> None:
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change_tensors(path: Path, **changes: Any) -> None:
    """Replaces tensors by name; None removes one."""
    file = path / "adapter_model.safetensors"
    tensors = {**load_file(file), **changes}
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items() if array is not None}, file)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "'lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": []}, r"alora_invocation_tokens is \[\]"),
        ({"alora_invocation_tokens": ["now"]}, r"alora_invocation_tokens is \['now'\]"),
        ({"alora_invocation_tokens": [1, -2]}, r"alora_invocation_tokens is \[1, -2\]"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"something_of_tomorrow": 1}, "something_of_tomorrow"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"target_modules": ["q_proj", "down_proj", "embed_tokens"]}, "'embed_tokens'"),
        ({"target_modules": ["q_proj", "down_proj", "lm_head"]}, "'lm_head'"),
        ({"target_modules": ["q_proj", "down_proj", "v_proj"]}, "lacks lora_A of v_proj in layer 0"),
        ({"target_modules": ["q_proj"]}, "down_proj"),
        ({"target_modules": []}, r"target_modules is \[\]"),
        ({"target_modules": "nothing.*"}, "nothing"),
        ({"target_modules": "(("}, "regular expression"),
        ({"layers_to_transform": [0, 7]}, "7"),
        ({"layers_to_transform": [0]}, "layers.1"),
        ({"layers_to_transform": [0, 1], "layers_pattern": "h"}, "layers_pattern"),
        ({"r": 8}, r"\[4, 16\].*\[8, 16\]"),
        ({"r": 0}, "r is 0"),
        ({"r": "4"}, "r is '4'"),
        ({"rank_pattern": {"q_proj": 2}}, r"\[4, 16\].*\[2, 16\]"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": 0}, "change nothing"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(
    adapter: Path, shape: BaseShape, changes: dict[str, Any], named: str
) -> None:
    change_config(adapter, **changes)
    with pytest.raises(SpecialistError, match=named):
        read_adapter(adapter, shape)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({Q_B: None}, "lacks lora_B of q_proj in layer 0"),
        ({Q_A: None}, "lacks lora_A of q_proj in layer 0"),
        ({Q_A: np.zeros((4, 15), np.float32)}, r"shape \[4, 15\]"),
        ({Q_B: np.full((16, 4), np.nan, np.float32)}, "NaN or infinity"),
        ({Q_B: np.full((16, 4), np.inf, np.float16)}, "NaN or infinity"),
        ({Q_A: np.zeros((4, 16), np.int32)}, "I32"),
        ({Q_A.replace("layers.0", "layers.2"): np.ones((4, 16), np.float32)}, "layers.2"),
        ({Q_A.replace("q_proj", "wq"): np.ones((4, 16), np.float32)}, "wq"),
        ({"base_model.model.lm_head.lora_A.weight": np.ones((4, 16), np.float32)}, "lm_head"),
        ({Q_A.replace("q_proj", "k_proj"): np.ones((4, 16), np.float32)}, "k_proj"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    adapter: Path, shape: BaseShape, changes: dict[str, Any], named: str
) -> None:
    change_tensors(adapter, **changes)
    with pytest.raises(SpecialistError, match=named):
        read_adapter(adapter, shape)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 63), value=st.sampled_from([np.nan, np.inf, -np.inf, 65504.0, -65504.0, 6e-8]))
def test_a_half_float_that_is_not_finite_is_found_wherever_it_is(
    adapter: Path, shape: BaseShape, at: int, value: float
) -> None:
    """A file of half floats is looked at in parts; the last of them may be short."""
    file = adapter / "adapter_model.safetensors"
    whole = file.read_bytes()
    halves = {name: tensor.astype(np.float16) for name, tensor in load_file(file).items()}
    changed = halves[Q_B]
    changed.flat[at] = value
    change_tensors(adapter, **halves)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mapped, "_AT_ONCE", 7)
            if np.isfinite(value):
                assert np.array_equal(read_adapter(adapter, shape).tensors[0, "q_proj"][1], changed)
            else:
                with pytest.raises(SpecialistError, match=re.escape(f"{Q_B} holds NaN or infinity")):
                    read_adapter(adapter, shape)
    finally:
        file.write_bytes(whole)


def test_an_adapter_that_would_change_nothing_is_refused(adapter: Path, shape: BaseShape) -> None:
    zeros = {
        name: np.zeros_like(t) for name, t in load_file(adapter / "adapter_model.safetensors").items() if "_B" in name
    }
    change_tensors(adapter, **zeros)
    with pytest.raises(SpecialistError, match="change nothing"):
        read_adapter(adapter, shape)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(kept=st.floats(0, 0.999))
def test_a_file_cut_off_anywhere_is_refused(adapter: Path, shape: BaseShape, kept: float) -> None:
    file = adapter / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    try:
        with pytest.raises(SpecialistError, match="damaged or cut off"):
            read_adapter(adapter, shape)
    finally:
        file.write_bytes(whole)


def test_a_pickle_is_refused_and_never_opened(adapter: Path, shape: BaseShape) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(SpecialistError, match="pickle"):
        read_adapter(adapter, shape)


def test_missing_and_unreadable_files(adapter: Path, shape: BaseShape, tmp_path: Path) -> None:
    with pytest.raises(SpecialistError, match=re.escape("adapter_config.json")):
        read_adapter(tmp_path / "nowhere", shape)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(SpecialistError, match="not JSON"):
        read_adapter(adapter, shape)
    (adapter / "adapter_config.json").write_text("[1]")
    with pytest.raises(SpecialistError, match="list"):
        read_adapter(adapter, shape)


def test_bfloat16_is_read_bit_for_bit(tmp_path: Path, shape: BaseShape) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    path = tmp_path / "bf16"
    write_adapter(path, random_weights(AdapterConfig(4, 8, ("k_proj",))), base_name="tiny", dtype="float32")
    before = load_file(path / "adapter_model.safetensors")
    rounded = {name: torch.from_numpy(array).bfloat16() for name, array in before.items()}
    save_torch(rounded, path / "adapter_model.safetensors")
    read = read_adapter(path, shape)
    for (layer, module), pair in read.tensors.items():
        for letter, array in zip("AB", pair, strict=True):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{letter}.weight"
            np.testing.assert_array_equal(array, rounded[name].float().numpy())


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rank=st.integers(1, 5),
    alpha=st.floats(0.5, 64),
    targets=st.sets(st.sampled_from(sorted(MODULES)), min_size=1),
    special=st.integers(1, 5),
    rslora=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_is_written_is_read_for_any_config(
    tmp_path: Path, shape: BaseShape, rank: int, alpha: float, targets: set[str], special: int, rslora: bool, seed: int
) -> None:
    patterns = {"layers.1.*": special}
    config = AdapterConfig(rank, alpha, tuple(sorted(targets)), patterns, {"layers.0.*": 2 * alpha}, rslora)
    weights = random_weights(config, seed)
    write_adapter(tmp_path / "a", weights, base_name="tiny", dtype="float32")
    read = read_adapter(tmp_path / "a", shape)
    assert read.tensors.keys() == weights.tensors.keys()
    for where, pair in weights.tensors.items():
        assert read.config.rank_of(*where) == config.rank_of(*where)
        assert read.config.scale_of(*where) == pytest.approx(config.scale_of(*where))
        for mine, theirs in zip(read.tensors[where], pair, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_the_digest_is_of_what_matters(adapter: Path) -> None:
    before = adapter_digest(adapter)
    change_config(
        adapter, base_model_name_or_path="elsewhere", peft_version="99", target_modules=["q_proj", "down_proj"]
    )
    assert adapter_digest(adapter) == before
    change_config(adapter, lora_alpha=9)
    changed = adapter_digest(adapter)
    assert changed != before
    change_tensors(adapter, **{Q_A: np.ones((4, 16), np.float32)})
    assert adapter_digest(adapter) not in (before, changed)


def test_scales_that_differ_between_layers_must_be_asked_for_by_layer() -> None:
    weights = random_weights(AdapterConfig(4, 8, ("q_proj", "k_proj"), {}, {"layers.1.self_attn.q_proj": 16}))
    assert weights.scale_of("k_proj") == 2
    assert (weights.scale_of("q_proj", 0), weights.scale_of("q_proj", 1)) == (2, 4)
    with pytest.raises(SpecialistError, match="2, 4"):
        weights.scale_of("q_proj")


def test_values_that_float16_cannot_hold_are_not_written(tmp_path: Path) -> None:
    weights = random_weights(AdapterConfig(4, 8, ("q_proj",)))
    weights.tensors[0, "q_proj"][1][:] = 1e6
    with pytest.raises(NumericError, match="lora_B of q_proj in layer 0"):
        write_adapter(tmp_path / "a", weights, base_name="tiny")


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="could not be written"):
        write_adapter(tmp_path / "file" / "a", random_weights(AdapterConfig(1, 1, ("q_proj",))), base_name="tiny")
