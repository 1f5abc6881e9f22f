"""GGUF files: written here with the package `gguf` as llama.cpp's converter writes them, read back by us."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
import torch

from plural.errors import BaseModelError, StorageError
from plural.models.base import find_base, load_base
from plural.models.chat import ChatFormat
from plural.models.gguf import file_name, open_gguf
from plural.models.vocabulary import gguf_tokenizer

from . import tiny

IDS = [256, *range(40, 100), 257]
PRE = {"llama": "smollm", "qwen2": "qwen2", "qwen3": "qwen2"}


def permute(weight, heads):
    """What convert_hf_to_gguf.py does to q and k of the llama architecture."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write(path, theirs, architecture, *, named=None, quantise=False, rope=None, **metadata):
    """A transformers model as a GGUF file; `metadata` replaces or (None) drops keys, dots written as __."""
    import gguf

    config = theirs.config
    writer = gguf.GGUFWriter(path, named or architecture)
    values = {
        f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.block_count": config.num_hidden_layers,
        f"{architecture}.feed_forward_length": config.intermediate_size,
        f"{architecture}.attention.head_count": config.num_attention_heads,
        f"{architecture}.attention.head_count_kv": config.num_key_value_heads,
        f"{architecture}.attention.key_length": getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads,
        "tokenizer.ggml.eos_token_id": 257,
    } | {key.replace("__", "."): value for key, value in metadata.items() if "__" in key}
    for key, value in values.items():
        if value is not None:
            writer.add_uint32(key, value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_float32(f"{architecture}.rope.freq_base", config.rope_parameters["rope_theta"])
    for key, value in (rope or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(f"{architecture}.rope.{key}", value)
    add_tokenizer(writer, metadata.get("pre", PRE[architecture]), metadata.get("model", "gpt2"))
    for name, tensor in theirs.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy()
        if architecture == "llama" and "q_proj" in name:
            array = permute(array, config.num_attention_heads)
        if architecture == "llama" and "k_proj" in name:
            array = permute(array, config.num_key_value_heads)
        if quantise and array.ndim == 2 and array.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(file_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(file_name(name), np.ascontiguousarray(array))
    if "rope_freqs" in metadata:
        writer.add_tensor("rope_freqs.weight", np.array(metadata["rope_freqs"], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer, pre, model):
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_string("tokenizer.ggml.model", model)
    writer.add_string("tokenizer.ggml.pre", pre)
    writer.add_array("tokenizer.ggml.tokens", [*letters, "<|im_start|>", "<|im_end|>", "12", "123"])
    writer.add_array("tokenizer.ggml.token_type", [1] * 256 + [3, 3, 1, 1])
    writer.add_array("tokenizer.ggml.merges", ["1 2", "12 3"])
    writer.add_string("tokenizer.chat_template", tiny.TEMPLATE)


@pytest.mark.parametrize(
    ("architecture", "kind", "options"),
    [
        ("llama", "Llama", {}),
        ("llama", "Llama", {"tie_word_embeddings": True, "attention_bias": True}),
        ("qwen2", "Qwen2", {}),
        ("qwen3", "Qwen3", {"head_dim": 16}),
    ],
)
def test_logits_equal_the_model_it_was_written_from(tmp_path, architecture, kind, options):
    theirs = tiny.model(kind, **options)
    path = write(tmp_path / "tiny.gguf", theirs, architecture)
    ours = load_base(path, cache_dir=tmp_path / "cache")
    with torch.inference_mode():
        expected = theirs(torch.tensor([IDS])).logits[0]
    assert (tiny.logits(ours, IDS) - expected).abs().max() < 1e-4


YARN = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 32.0}
LINEAR = {"scaling.type": "linear", "scaling.factor": 2.0}


@pytest.mark.parametrize(
    ("scaling", "rope"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, YARN),
        ({"rope_type": "linear", "factor": 2.0}, LINEAR),
    ],
)
def test_rope_scaling_is_read(tmp_path, scaling, rope):
    theirs = tiny.model("Llama", rope_parameters=scaling | {"rope_theta": 1e4})
    path = write(tmp_path / "tiny.gguf", theirs, "llama", rope=rope)
    with torch.inference_mode():
        expected = theirs(torch.tensor([IDS])).logits[0]
    assert (tiny.logits(load_base(path, cache_dir=tmp_path), IDS) - expected).abs().max() < 1e-4


def test_llama3_scaling_as_frequency_factors(tmp_path):
    llama3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = llama3 | {"original_max_position_embeddings": 32, "rope_theta": 1e4}
    theirs = tiny.model("Llama", rope_parameters=rope)
    plain = 1.0 / 1e4 ** (torch.arange(0, 8, 2) / 8)
    factors = (plain / theirs.model.rotary_emb.inv_freq).tolist()
    path = write(tmp_path / "tiny.gguf", theirs, "llama", rope_freqs=factors)
    with torch.inference_mode():
        expected = theirs(torch.tensor([IDS])).logits[0]
    assert (tiny.logits(load_base(path, cache_dir=tmp_path), IDS) - expected).abs().max() < 1e-4


def test_quantised_tensors_are_dequantised(tmp_path):
    theirs = tiny.model("Llama")
    path = write(tmp_path / "tiny.gguf", theirs, "llama", quantise=True)
    ours = load_base(path, cache_dir=tmp_path)
    written = theirs.model.layers[0].self_attn.o_proj.weight
    difference = (ours.decoder.weights.layers[0].o_OI - written).abs().max()
    assert 0 < difference < written.abs().max() / 127


# -------------------------------------------------------------------------------------------------- the tokenizer
@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("smollm", ["1", "2", "3", "4"]),
        ("qwen2", ["1", "2", "3", "4"]),
        ("gpt-2", ["123", "4"]),
        ("llama-bpe", ["123", "4"]),
    ],
)
def test_each_pre_tokenizer_cuts_numbers_its_own_way(tmp_path, pre, pieces):
    file = open_gguf(write(tmp_path / "tiny.gguf", tiny.model("Llama"), "llama", pre=pre))
    tokenizer, template = gguf_tokenizer(file)
    assert [tokenizer.decode([i]) for i in tokenizer.encode("1234")] == pieces
    assert ChatFormat(tokenizer, template).end_of_turn == "<|im_end|>"
    assert tokenizer.eos_ids == {257}


# ------------------------------------------------------------------------------------------------------- refusals
@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny.model("Llama"), "llama")


def replaced(old, new):
    return lambda data: data.replace(old, new, 1)


def number(key, value):
    """The uint32 under `key` replaced."""

    def change(data):
        at = data.index(key.encode()) + len(key) + 4
        return data[:at] + struct.pack("<I", value) + data[at + 4 :]

    return change


DAMAGE = {
    "cut in the tensors": (lambda d: d[:-4000], "is cut short: tensor .* ends at byte"),
    "cut in the header": (lambda d: d[:300], "header is damaged"),
    "empty": (lambda d: b"", "is empty"),
    "another format": (lambda d: b"PK\x03\x04" + d[4:], "is not a GGUF file"),
    "another version": (lambda d: d[:4] + struct.pack("<I", 9) + d[8:], "GGUF version 9"),
    "an endless string": (lambda d: d[:24] + b"\xff" * 8 + d[32:], "header is damaged"),
    "a missing tensor": (
        replaced(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"),
        r"lacks 1 of .*layers\.1\.mlp\.up_proj",
    ),
    "a missing number": (replaced(b"llama.block_count", b"llama.black_count"), "has no llama.block_count"),
    "other sizes": (number("llama.feed_forward_length", 40), r"the config asks for \[40, 32\]"),
    "an unknown tensor type": (
        lambda d: (at := d.index(b"output_norm.weight") + 18) and d[: at + 12] + struct.pack("<I", 36) + d[at + 16 :],
        "of GGML type 36",
    ),
    "NaN": (lambda d: d[:-64] + struct.pack("<16f", *[float("nan")] * 16), "holds NaN"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(tmp_path, pristine, what):
    damage, message = DAMAGE[what]
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damage(pristine.read_bytes()))
    with pytest.raises(BaseModelError, match=message) as raised:
        load_base(path, cache_dir=tmp_path / "cache")
    assert "damaged.gguf" in str(raised.value)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("position", range(0, 6000, 37))
def test_any_header_byte_flipped_gives_a_base_or_a_clear_error(pristine, tmp_path, position):
    data = bytearray(pristine.read_bytes())
    data[position] ^= 0xFF
    path = tmp_path / "flipped.gguf"
    path.write_bytes(bytes(data))
    try:
        file = open_gguf(path)
        gguf_tokenizer(file)
    except BaseModelError as error:  # whether it is refused depends on the byte; if it is, the file is named
        assert "flipped.gguf" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"named": "gemma3"}, "'gemma3' model.*llama, qwen2, qwen3"),
        ({"pre": "deepseek-llm"}, "pre-tokenizer 'deepseek-llm'.*smollm"),
        ({"model": "llama"}, "'llama' tokenizer"),
        ({"llama__expert_count": 8}, "mixture of experts"),
        ({"llama__rope__dimension_count": 4}, "only a part of each head"),
        ({"rope": {"scaling.type": "longrope"}}, "'longrope'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path, options, message):
    path = write(tmp_path / "tiny.gguf", tiny.model("Llama"), "llama", **options)
    with pytest.raises(BaseModelError, match=message):
        load_base(path, cache_dir=tmp_path)


# ------------------------------------------------------------------------------------------------------- the cache
@pytest.fixture
def copy(pristine, tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(pristine.read_bytes())
    return path


def prepared(path, cache):
    """Loads, and says whether something had to be prepared."""
    steps = []
    base = load_base(path, cache_dir=cache, progress=lambda what, done: steps.append((what, done)))
    return base, steps


def test_the_second_start_reads_the_cache(copy, tmp_path):
    assert not find_base(copy, cache_dir=tmp_path / "cache").ready
    first, steps = prepared(copy, tmp_path / "cache")
    assert steps[0][1] == 0
    assert steps[-1][1] == 1
    assert find_base(copy, cache_dir=tmp_path / "cache").ready
    second, none = prepared(copy, tmp_path / "cache")
    assert none == []
    assert torch.equal(tiny.logits(first, IDS), tiny.logits(second, IDS))
    assert first.digest == second.digest


def test_a_touched_source_is_hashed_again_but_not_prepared_again(copy, tmp_path):
    prepared(copy, tmp_path / "cache")
    os.utime(copy, ns=(1, 1))
    assert not find_base(copy, cache_dir=tmp_path / "cache").ready
    assert prepared(copy, tmp_path / "cache")[1] == []
    assert find_base(copy, cache_dir=tmp_path / "cache").ready


def test_a_changed_source_is_prepared_again(copy, tmp_path):
    first, _ = prepared(copy, tmp_path / "cache")
    data = bytearray(copy.read_bytes())
    data[-64:] = struct.pack("<16f", *[0.5] * 16)
    copy.write_bytes(bytes(data))
    second, steps = prepared(copy, tmp_path / "cache")
    assert steps
    assert first.digest != second.digest
    assert not torch.equal(tiny.logits(first, IDS), tiny.logits(second, IDS))


@pytest.mark.parametrize("damage", [lambda d: d[:-50], lambda d: d[:-50] + b"\x7f" * 50, lambda d: b""])
def test_a_damaged_cache_is_rebuilt(copy, tmp_path, damage):
    first, _ = prepared(copy, tmp_path / "cache")
    expected = tiny.logits(first, IDS)
    (weights,) = (tmp_path / "cache").rglob("*.safetensors")
    damaged = damage(weights.read_bytes())
    weights.unlink()
    weights.write_bytes(damaged)
    again, steps = prepared(copy, tmp_path / "cache")
    assert steps
    assert torch.equal(tiny.logits(again, IDS), expected)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"layout": 1, "source": 3, "weights": null}'])
def test_a_damaged_manifest_is_rebuilt(copy, tmp_path, text):
    prepared(copy, tmp_path / "cache")
    (manifest,) = (tmp_path / "cache").rglob("*.json")
    manifest.write_text(text)
    assert prepared(copy, tmp_path / "cache")[1]
    assert prepared(copy, tmp_path / "cache")[1] == []


def test_a_cache_folder_that_cannot_be_made_is_a_storage_error(copy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="PLURAL_CACHE"):
        load_base(copy, cache_dir=tmp_path / "file")


def test_a_full_disk_leaves_nothing_half_written(copy):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with pytest.MonkeyPatch.context() as patch:
        import safetensors.torch

        def full(tensors, path):
            path.write_bytes(b"half")
            with open("/dev/full", "wb", buffering=0) as disk:
                disk.write(b"more")

        patch.setattr(safetensors.torch, "save_file", full)
        cache = copy.parent / "cache"
        with pytest.raises(StorageError, match="No space left"):
            load_base(copy, cache_dir=cache)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
