"""Text to token ids and back. What a user types never becomes a control token."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import tokenizers

from plural.errors import BaseModelError

# Names of the tokens that end a text or a turn, in the families we support; files often name only one of them.
_ENDINGS = ("<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "</s>")
# A call is output to be read, not control: these stay visible even where a model marks them as special.
CALL_TAGS = ("<tool_call>", "</tool_call>")


def _byte_letters() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (openai/gpt-2, encoder.py)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(rest)}


_BYTES = _byte_letters()


class Tokenizer:
    """`backend` is the `tokenizers.Tokenizer` with its control tokens; `special_ids` are those it never shows."""

    def __init__(
        self, backend: tokenizers.Tokenizer, *, ending_ids: Iterable[int] = (), named: Mapping[str, str] | None = None
    ) -> None:
        """`ending_ids` are those the model's files name; `named` maps bos_token, eos_token, ... to their text."""
        self.backend = backend
        self.named = dict(named or {})
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, t in added.items() if t.special and t.content not in CALL_TAGS)
        self.eos_ids = frozenset(ending_ids) | {i for i in self.special_ids if added[i].content in _ENDINGS}
        self._added = {token.content: i for i, token in added.items()}
        self._plain = tokenizers.Tokenizer(backend.model)
        if backend.normalizer is not None:
            self._plain.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            self._plain.pre_tokenizer = backend.pre_tokenizer
        decoder = "" if backend.decoder is None else str(backend.decoder)
        self._byte_level = "ByteLevel" in decoder
        self._strips_first = "Strip" in decoder
        if not self._byte_level and "ByteFallback" not in decoder:
            raise BaseModelError(
                f"The tokenizer's decoder {decoder[:60]!r} is not supported.",
                hint="Supported: byte-level BPE and SentencePiece BPE with byte fallback.",
            )

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    @cached_property
    def control_texts(self) -> dict[str, int]:
        """The text of every control token -> its id."""
        return {text: i for text, i in self._added.items() if i in self.special_ids}

    @property
    def added_texts(self) -> Mapping[str, int]:
        """Every token that is matched before any other: control tokens and tags such as `<think>`."""
        return self._added

    def token_text(self, token_id: int) -> str:
        """A token as its vocabulary spells it; for control tokens what a template writes."""
        return str(self.backend.id_to_token(token_id))

    def encode(self, text: str) -> list[int]:
        """Plain text: `<|im_end|>` in it is ordinary characters.

        A byte that the vocabulary lacks is left out, as transformers does: SmolLM2 has no token for U+0004 and five
        other control characters, nor for U+40000 to U+BFFFF, which are unassigned.
        """
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def unwritable(self, text: str) -> str:
        """The characters of a text that `encode` leaves out, each once, or those that are none (lone surrogates): no
        answer can have them."""
        if lone := re.findall("[\ud800-\udfff]", text):
            return "".join(dict.fromkeys(lone))
        if self.decode(self.encode(text)) == text:
            return ""
        return "".join(letter for letter in dict.fromkeys(text) if self.decode(self.encode(letter)) != letter)

    def encode_template(self, text: str) -> list[int]:
        """Text that a chat template wrote: control tokens in it are control tokens."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def split_template(self, text: str) -> list[str | int]:
        """The same text cut at its added tokens, which become ids."""
        if not self._added:
            return [text] if text else []
        return [self._added.get(part, part) for part in self._pattern.split(text) if part]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._added, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def decode(self, ids: Sequence[int]) -> str:
        """Control tokens are left out; bytes that are no UTF-8 become U+FFFD."""
        detokenizer = Detokenizer(self)
        return "".join([detokenizer.add(i) for i in ids]) + detokenizer.finish()

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for. Raises IndexError for an id that is not in the vocabulary."""
        token = self.backend.id_to_token(token_id)
        if token is None:
            raise IndexError(f"No token has the id {token_id}; the vocabulary has {self.vocab_size}.")
        if token in self._added:
            return token.encode()
        if self._byte_level:
            return bytes(_BYTES[letter] for letter in token)
        if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return token.replace("▁", " ").encode()


class Detokenizer:
    """Turns one sequence's tokens into text as they come; never emits half a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = tokenizer._strips_first

    def add(self, token_id: int) -> str:
        """What became printable with this token: nothing for a control token or in the middle of a character."""
        if token_id in self._tokenizer.special_ids:
            return ""
        text = self._utf8.decode(self._tokenizer.token_bytes(token_id))
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """U+FFFD when the sequence ended in the middle of a character, else nothing."""
        return self._utf8.decode(b"", final=True)


def end_ids(*values: int | Sequence[int] | None) -> frozenset[int]:
    """Ids from fields that hold none, one or several."""
    found: set[int] = set()
    for value in values:
        if value is not None:
            found.update([value] if isinstance(value, int) else value)
    return frozenset(found)


def load_backend(text: str, source: str) -> tokenizers.Tokenizer:
    """A `tokenizer.json`. Raises BaseModelError when it is damaged."""
    try:
        json.loads(text)
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:
        raise BaseModelError(f"{source} is not a tokenizer: {error}.", hint="Fetch the file again.") from error
    backend.no_truncation()
    backend.no_padding()
    return backend
