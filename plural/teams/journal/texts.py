"""Long texts of a run, each written as what is new in it: the rest stands in earlier entries.

What the members of a team read grows by a line a turn, and comes several times in a turn: in the step's task, in a
call's arguments. Written whole, a run would take room with the square of its length. So a long text is a list of
pieces: new text as it is, and parts of earlier texts of the run by where they stand. Readers get whole texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from plural.errors import StorageError

_LONG = 200  # characters; a shorter text is left where it is
_WORTH = 64  # characters that a piece of an earlier text must have
_KEY = 64  # of a line's characters, by which it is found again
_WINDOW = 4_000_000  # characters of the latest texts in which new ones are looked up

# A text by the number of its entry and its own number in there, from 0.
Name = tuple[int, int]
# New text, or [entry, number, begin, end] of an earlier one.
Piece = str | list[int]


class Folded:
    """Long texts of one run as they are written. Only the run's owner has one."""

    def __init__(self, known: Mapping[Name, str]) -> None:
        self._texts: dict[Name, str] = {}
        self._places: dict[str, tuple[Name, int]] = {}  # of lines, by how they begin
        self._size = 0
        for name, text in known.items():
            self._learn(name, text)

    def fold(self, entry: int, body: str) -> tuple[str, str | None]:
        """An entry's body without its long texts, and those: JSON of [path in the body, pieces] of each; None without
        any."""
        if len(body) < _LONG:
            return body, None
        found: list[tuple[list[str | int], str]] = []
        short = _shortened(json.loads(body), [], found)
        if not found:
            return body, None
        texts: list[tuple[list[str | int], list[Piece]]] = []
        for number, (path, text) in enumerate(found):
            pieces = list(self._pieces(text))
            texts.append((path, pieces))
            if len(pieces) > 1 or isinstance(pieces[0], str) or pieces[0][2]:  # else it is how an earlier one begins
                self._learn((entry, number), text)
        return _json(short), _json(texts)

    def _pieces(self, text: str) -> Iterator[Piece]:
        at = new = 0
        while at < len(text):
            name, begin, length = self._longest(text, at)
            if length < _WORTH:
                at = text.find("\n", at) + 1 or len(text)
                continue
            if new < at:
                yield text[new:at]
            yield [*name, begin, begin + length]
            at = new = at + length
        if new < len(text):
            yield text[new:]

    def _longest(self, text: str, at: int) -> tuple[Name, int, int]:
        name, begin = self._places.get(_key(text, at), ((0, 0), 0))
        return name, begin, _common(text, at, self._texts[name], begin) if name in self._texts else 0

    def _learn(self, name: Name, text: str) -> None:
        """Of lines that begin alike, the first of the latest text is found again: what follows is then the most."""
        self._size += len(text) - len(self._texts.pop(name, ""))
        self._texts[name] = text
        begins = [0, *(found.end() for found in re.finditer("\n", text))]
        for begin in reversed(begins):
            self._places[_key(text, begin)] = name, begin
        while self._size > _WINDOW and len(self._texts) > 1:
            self._size -= len(self._texts.pop(next(iter(self._texts))))


class Texts:
    """Long texts of one run as they are read, in the order of its entries."""

    def __init__(self) -> None:
        self.known: dict[Name, str] = {}

    def unfold(self, entry: int, body: str, texts: str, earlier: Callable[[], Iterable[tuple[int, str]]]) -> str:
        """The whole body. `earlier` gives the texts of all entries before this one, if they were not read.

        Raises:
            StorageError: the journal does not have what the texts are made of.
        """
        whole = json.loads(body)
        for path, text in self._read(entry, texts, earlier):
            inner = whole
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = text
        return _json(whole)

    def _read(
        self, entry: int, texts: str, earlier: Callable[[], Iterable[tuple[int, str]]]
    ) -> list[tuple[Sequence[Any], str]]:
        said = json.loads(texts)
        names = {(piece[0], piece[1]) for _, pieces in said for piece in pieces if isinstance(piece, list)}
        if any(name not in self.known and name[0] != entry for name in names):
            for other, told in earlier():
                self._read(other, told, lambda: ())
        found: list[tuple[Sequence[Any], str]] = []
        for number, (path, pieces) in enumerate(said):
            self.known[entry, number] = self._joined(entry, pieces)
            found.append((path, self.known[entry, number]))
        return found

    def _joined(self, entry: int, pieces: Sequence[Piece]) -> str:
        parts: list[str] = []
        for piece in pieces:
            if isinstance(piece, list):
                name, begin, end = (piece[0], piece[1]), piece[2], piece[3]
                if len(self.known.get(name, "")) < end:
                    raise StorageError(
                        f"Entry {entry} has parts of entry {piece[0]}, which does not have them.",
                        hint="The journal is damaged; put a copy of it in its place.",
                    )
                parts.append(self.known[name][begin:end])
            else:
                parts.append(piece)
        return "".join(parts)


def _shortened(value: Any, path: list[str | int], found: list[tuple[list[str | int], str]]) -> Any:
    """`value` without its long texts, of which `found` then knows."""
    match value:
        case str() if len(value) >= _LONG:
            found.append((path, value))
            return ""
        case dict():
            return {key: _shortened(inner, [*path, key], found) for key, inner in value.items()}
        case list():
            return [_shortened(inner, [*path, at], found) for at, inner in enumerate(value)]
    return value


def _common(one: str, at: int, other: str, begin: int) -> int:
    """How many characters the two have in common from there on."""
    low, high = 0, min(len(one) - at, len(other) - begin)
    while low < high:
        middle = (low + high + 1) // 2
        if one[at + low : at + middle] == other[begin + low : begin + middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _key(text: str, begin: int) -> str:
    return text[begin : begin + _KEY].partition("\n")[0]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
