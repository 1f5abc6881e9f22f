"""The embedded base against transformers: the same weights read by two readers, the same logits."""

from __future__ import annotations

import json
import struct

import pytest
import torch

from plural.models.attention import PackedAttend
from plural.models.base import find_base
from plural.types import Message

PROMPTS = (
    "The capital of France is",
    "12 + 345 = ",
    "def fibonacci(n):\n    ",
    "Übergrößenträger naïve café 東京 🚀",
    "   leading and trailing   \n\n\n",
    '{"name": "set_light", "arguments": {"room": "kitchen"}}',
    "a",
    "Once upon a time there was a small model that " * 12,
)


def ours(base, sequences):
    attend = PackedAttend([len(ids) for ids in sequences])
    flat = torch.tensor([i for ids in sequences for i in ids])
    with torch.inference_mode():
        states = base.decoder.hidden(flat, attend.positions(), attend)
        return base.decoder.logits(states).split(attend.lengths)


def test_logits_equal_transformers_prompt_by_prompt(base, reference):
    """With sdpa, their default, the difference is mostly 0: the same products are added in the same order."""
    chat = base.chat.encode([Message("user", "What is 12345 plus 6?")])
    sequences = [base.tokenizer.encode(prompt) for prompt in PROMPTS] + [chat]
    logits = [ours(base, [ids])[0] for ids in sequences]
    for dtype, attention in ((torch.float64, "eager"), (torch.float32, "sdpa"), (torch.float32, "eager")):
        reference.to(dtype).set_attn_implementation(attention)
        with torch.inference_mode():
            expected = [reference(torch.tensor([ids])).logits[0] for ids in sequences]
        worst = [float((a.double() - b).abs().max()) for a, b in zip(logits, expected, strict=True)]
        print(f"largest logit difference from {dtype}, {attention}:", " ".join(f"{one:.1e}" for one in worst))
        assert max(worst) < 1e-4


def test_a_sequence_does_not_see_its_neighbours_in_the_row(base):
    first, second = (base.tokenizer.encode(prompt) for prompt in PROMPTS[:2])
    together = ours(base, [first, second])[1]
    assert torch.allclose(together, ours(base, [second])[0], atol=1e-4)


def test_the_embedded_base_is_what_the_package_says(base):
    assert base.digest == "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert (base.config.num_layers, base.config.hidden_size, base.context) == (30, 576, 8192)
    assert base.config.tied_head
    assert base.tokenizer.vocab_size == base.config.vocab_size == 49152
    assert find_base().ready
    assert find_base().path == base.source


def test_eos_is_end_of_text_and_end_of_turn(base):
    assert {base.tokenizer.token_text(i) for i in base.tokenizer.eos_ids} == {"<|endoftext|>", "<|im_end|>"}
    assert base.chat.end_of_turn == "<|im_end|>"


@pytest.fixture(scope="module")
def official(base):
    """The tokenizer as the model's own tokenizer.json describes it, from the GGUF's raw lists, read independently."""
    from tokenizers import AddedToken, Tokenizer

    texts, kinds, merges = raw_lists(base.source.read_bytes())
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {text: i for i, text in enumerate(texts)}, "merges": merges},
    }
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t, k in zip(texts, kinds, strict=True) if k == 3])
    return tokenizer


def raw_lists(data):
    """tokens, token types and merges, found by their keys in the file's bytes."""

    def array(key):
        name = key.encode()
        at = data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name) + 4
        inner, count = struct.unpack_from("<IQ", data, at)
        at += 12
        if inner == 5:
            return list(struct.unpack_from(f"<{count}i", data, at))
        found = []
        for _ in range(count):
            (length,) = struct.unpack_from("<Q", data, at)
            found.append(data[at + 8 : at + 8 + length].decode())
            at += 8 + length
        return found

    return (array(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges"))


TEXTS = (
    *PROMPTS,
    "Call 0800-555-0199 at 12:45 on 2026-11-22, pay 1,234.56 or 1e-10",
    "tabs\tand  runs   of    spaces\r\nand\r\n\r\nnewlines \n ",
    "for i in range(10):\n\tif x[i] != 0x1F and y >= 3.14159:\n\t\treturn {'a': [1, 22, 333]}",
    "I'm you're he'll they'd we've CAN'T",
    "العربية עברית हिन्दी ไทย 한국어 Ελληνικά",
    "½ ² ٣٤٥ Ⅳ ①②",
    "e\u0301 \u200b\ufeff\u2028 \U0001f469\u200d\U0001f469\u200d\U0001f467",
    "",
    " ",
)


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_equal_the_official_tokenizer(base, official, text):
    assert base.tokenizer.encode(text) == official.encode(text).ids
    assert base.tokenizer.decode(base.tokenizer.encode(text)) == text


def test_numbers_are_split_digit_by_digit(base):
    pieces = [base.tokenizer.decode([i]) for i in base.tokenizer.encode("12345 67")]
    assert pieces == ["1", "2", "3", "4", "5", " ", "6", "7"]


@pytest.mark.parametrize(
    "conversation",
    [
        [Message("user", "What is 12 + 30?")],
        [Message("system", "Be brief."), Message("user", " spaces \n around "), Message("assistant", "Yes.\n\n1. a")],
        [Message("user", "a"), Message("assistant", "b"), Message("user", "naïve 🚀 123")],
        [Message("user", "x"), Message("tool", '{"temperature": 21.5}')],
    ],
)
def test_chat_ids_equal_apply_chat_template(base, official, conversation):
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=official, eos_token="<|im_end|>")
    theirs.chat_template = base.chat.template
    dicts = [{"role": message.role, "content": message.content} for message in conversation]
    expected = theirs.apply_chat_template(dicts, add_generation_prompt=True, return_dict=False)
    assert base.chat.encode(conversation) == expected
