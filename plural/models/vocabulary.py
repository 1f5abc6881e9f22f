"""Builds the tokenizer that a GGUF file describes: vocabulary, merges, pre-tokenizer, control tokens.

The pre-tokenizer is only named there; what each name means is in llama.cpp's `llama-vocab.cpp` and in the
`tokenizer.json` of the models it was made for. A wrong rule shifts every number's tokens without any error, so an
unknown name is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from plural.errors import BaseModelError
from plural.models.gguf import GgufFile
from plural.models.tokenizer import Tokenizer, end_ids

_CONTROL, _USER_DEFINED = 3, 4
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(digits: str) -> Any:
    pattern = Regex(_WORDS.replace("DIGITS", digits))
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _smollm() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


def _gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


_PRE: dict[str, Callable[[], Any]] = {
    "smollm": _smollm,
    "gpt-2": _gpt2,
    "llama-bpe": lambda: _split("{1,3}"),
    "llama3": lambda: _split("{1,3}"),
    "llama-v3": lambda: _split("{1,3}"),
    "qwen2": lambda: _split(""),
}
_WHOLE_WORDS_FIRST = ("llama-bpe", "llama3", "llama-v3")
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def gguf_tokenizer(file: GgufFile) -> tuple[Tokenizer, str | None]:
    """The tokenizer and the chat template. Raises BaseModelError for a kind that is not supported, by name."""
    meta = {key.removeprefix("tokenizer."): value for key, value in file.metadata.items()}
    kind, pre = meta.get("ggml.model"), meta.get("ggml.pre")
    if kind != "gpt2":
        raise BaseModelError(
            f"{file.path} has a {kind!r} tokenizer, which is not supported in GGUF.",
            hint="Use the model's Hugging Face directory, which has a tokenizer.json.",
        )
    if pre not in _PRE:
        raise BaseModelError(
            f"{file.path}: the pre-tokenizer {pre!r} is not supported.", hint=f"Supported: {', '.join(_PRE)}."
        )
    for key in ("ggml.tokens", "ggml.merges"):
        if not meta.get(key):
            raise BaseModelError(f"{file.path} has no tokenizer.{key}.", hint="Fetch the file again.")
    texts: tuple[str, ...] = meta["ggml.tokens"]
    backend = _backend(texts, meta["ggml.merges"], pre)
    kinds = meta.get("ggml.token_type", ())
    added = [
        AddedToken(text, special=kind == _CONTROL, normalized=False)
        for text, kind in zip(texts, kinds, strict=False)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    backend.add_tokens(added)
    endings = end_ids(*(meta.get(f"ggml.{name}_token_id") for name in ("eos", "eot", "eom")))
    ids = {name: meta.get(f"ggml.{key}_token_id") for name, key in _NAMED.items()}
    named = {name: texts[i] for name, i in ids.items() if i is not None and i < len(texts)}
    return Tokenizer(backend, ending_ids=endings, named=named), meta.get("chat_template")


def _backend(texts: tuple[str, ...], merges: tuple[str, ...], pre: str) -> tokenizers.Tokenizer:
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    vocabulary = {text: i for i, text in enumerate(texts)}
    model = models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre in _WHOLE_WORDS_FIRST)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = _PRE[pre]()
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    return backend
