"""Model directories as transformers saves them: the same logits, and a clear refusal of what cannot be read."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from plural.errors import BaseModelError, PromptError
from plural.models.base import find_base, load_base
from plural.models.config import MODULES, PARENT
from plural.types import Message

from . import tiny

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
MODELS = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, wide heads": ("Llama", {"head_dim": 16}),
    "llama, linear rope": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    "llama, llama3 rope": ("Llama", {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}),
    "llama, yarn rope": ("Llama", {"rope_parameters": YARN | {"rope_theta": 1e4}}),
    "llama, yarn with its options": (
        "Llama",
        {
            "rope_parameters": YARN
            | {"rope_theta": 1e4, "beta_fast": 8, "beta_slow": 2, "mscale": 1, "mscale_all_dim": 0.5}
        },
    ),
    "llama, dynamic rope": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral, window": ("Mistral", {"sliding_window": 64}),
    "qwen2": ("Qwen2", {}),
    "qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3, tied, biases": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True, "attention_bias": True}),
}
IDS = [256, *range(40, 100), 257]


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(tmp_path, name):
    kind, options = MODELS[name]
    theirs = tiny.save(tmp_path, kind, **options)
    ours = load_base(tmp_path)
    with torch.inference_mode():
        expected = theirs(torch.tensor([IDS])).logits[0]
    assert expected.std() > 0.1
    assert (tiny.logits(ours, IDS) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["llama, biases", "qwen2, tied", "qwen3", "mistral"])
def test_an_adapter_on_every_linear_equals_peft(tmp_path, name):
    from peft import LoraConfig, get_peft_model

    kind, options = MODELS[name]
    theirs = tiny.save(tmp_path, kind, **options)
    ours = load_base(tmp_path)
    adapted = get_peft_model(theirs, LoraConfig(r=4, lora_alpha=12, target_modules=list(MODULES), lora_dropout=0.0))
    tensors = {}
    for layer in range(ours.config.num_layers):
        for module in MODULES:
            place = adapted.get_submodule(f"base_model.model.model.layers.{layer}.{PARENT[module]}.{module}")
            a, b = place.lora_A["default"].weight, place.lora_B["default"].weight
            with torch.no_grad():
                b.normal_(0, 0.2)
            tensors[layer, module] = (a.detach(), b.detach())
    with torch.inference_mode():
        expected = adapted(torch.tensor([IDS])).logits[0]
    found = tiny.logits(ours, IDS, tiny.PlainDelta(ours.config, tensors, scale=3.0))
    assert (found - expected).abs().max() < 1e-4
    assert (tiny.logits(ours, IDS) - expected).abs().max() > 1e-2


def test_old_style_rope_fields_are_read(tmp_path):
    tiny.save(tmp_path, "Llama", rope_parameters=LLAMA3 | {"rope_theta": 5e5})
    new = tiny.logits(load_base(tmp_path), IDS)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    edit(tmp_path, rope_parameters=None, rope_theta=5e5, rope_scaling={**LLAMA3, "rope_type": None, "type": "llama3"})
    old = json.loads((tmp_path / "config.json").read_text())
    del old["rope_scaling"]["rope_type"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert torch.equal(tiny.logits(load_base(tmp_path), IDS), new)


def test_a_sliding_window_caps_the_context(tmp_path):
    tiny.save(tmp_path, "Mistral", sliding_window=64)
    assert load_base(tmp_path).context == 64


def test_sharded_weights_are_read(tmp_path):
    theirs = tiny.save(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    tiny.write_tokenizer(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    whole, shards = load_base(tmp_path / "whole"), load_base(tmp_path / "shards")
    assert torch.equal(tiny.logits(whole, IDS), tiny.logits(shards, IDS))


def test_the_digest_is_that_of_weights_and_config(tmp_path):
    tiny.save(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    edit(tmp_path / "b", rms_norm_eps=1e-3)
    a, b, c = (load_base(tmp_path / name).digest for name in "abc")
    assert a == c != b
    assert a.startswith("sha256:")


def test_bfloat16_runs_in_bfloat16(tmp_path):
    tiny.save(tmp_path, tie_word_embeddings=True)
    base = load_base(tmp_path, dtype=torch.bfloat16)
    assert base.decoder.dtype == tiny.logits(base, IDS).dtype == torch.bfloat16
    assert base.decoder.weights.head_VH.data_ptr() == base.decoder.weights.embed_VH.data_ptr()


def test_gradients_flow_through_decoder_and_packed_attention(tmp_path):
    from plural.models.attention import PackedAttend

    tiny.save(tmp_path)
    base = load_base(tmp_path)
    config = base.config
    tensors = {
        (layer, module): (torch.randn(2, config.in_features(module)), torch.zeros(config.out_features(module), 2))
        for layer in range(config.num_layers)
        for module in MODULES
    }
    for _, b_OR in tensors.values():
        b_OR.requires_grad_()
    attend = PackedAttend([5, 9])
    states = base.decoder.hidden(torch.arange(14), attend.positions(), attend, tiny.PlainDelta(config, tensors, 1.0))
    base.decoder.logits(states).logsumexp(-1).sum().backward()
    assert all(b_OR.grad is not None and bool(b_OR.grad.abs().sum() > 0) for _, b_OR in tensors.values())


def test_a_base_without_a_template_says_so(tmp_path):
    tiny.save(tmp_path)
    tiny.write_tokenizer(tmp_path, template=None)
    with pytest.raises(PromptError, match="no chat template"):
        load_base(tmp_path).chat.encode([Message("user", "hello")])


def test_a_template_file_is_read(tmp_path):
    tiny.save(tmp_path)
    tiny.write_tokenizer(tmp_path, template=None)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert load_base(tmp_path).chat.text([Message("user", "hello")]) == "hello!"


# ------------------------------------------------------------------------------------------------------- refusals
def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def leave_only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def index_outside(folder):
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


DAMAGE = {
    "another architecture": (
        lambda f: edit(f, architectures=["GemmaForCausalLM"]),
        "GemmaForCausalLM.*LlamaForCausalLM",
    ),
    "no architecture": (lambda f: edit(f, architectures=None), "none model"),
    "another activation": (lambda f: edit(f, hidden_act="gelu"), "'gelu'"),
    "another rope": (
        lambda f: edit(f, rope_parameters={"rope_type": "longrope", "rope_theta": 1e4}),
        "'longrope'.*Supported: default, linear, llama3, yarn, dynamic",
    ),
    "an incomplete rope": (
        lambda f: edit(f, rope_parameters={"rope_type": "llama3", "factor": 2.0, "rope_theta": 1e4}),
        "'llama3' lacks 'low_freq_factor'",
    ),
    "half-rotated heads": (lambda f: edit(f, partial_rotary_factor=0.5), "only a part of each head"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
    "a damaged config": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    "a config that is a list": (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    "only a pickle": (leave_only_a_pickle, "pickle.*pytorch_model.bin.*save_pretrained"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "cut weights": (cut, "damaged or cut short"),
    "missing tensors": (
        lambda f: edit_weights(f, lambda t: t.pop("model.norm.weight")),
        "lacks 1 of.*model.norm.weight",
    ),
    "wrong shapes": (lambda f: edit(f, intermediate_size=40), r"shape \[48, 32\], the config asks for \[40, 32\]"),
    "NaN": (lambda f: edit_weights(f, lambda t: t["model.norm.weight"].fill_(float("nan"))), "norm.weight holds NaN"),
    "a shard outside": (index_outside, "points outside.*elsewhere"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
    "a damaged tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "is not a tokenizer"),
    "a tokenizer of another model": (
        lambda f: tiny.backend(tuple(f"<tag{i}>" for i in range(100))).save(str(f / "tokenizer.json")),
        "tokenizer has 358 tokens, the model 300",
    ),
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    tiny.save(folder)
    return folder


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(tmp_path, pristine, what):
    damage, message = DAMAGE[what]
    folder = tmp_path / "model"
    shutil.copytree(pristine, folder)
    damage(folder)
    with pytest.raises(BaseModelError, match=f"(?s){message}"):
        load_base(folder)


def test_paths_that_are_no_model_are_refused(tmp_path):
    with pytest.raises(BaseModelError, match="no base model at"):
        find_base(tmp_path / "nowhere")
    (tmp_path / "model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(BaseModelError, match="Pickles"):
        find_base(tmp_path / "model.bin")
