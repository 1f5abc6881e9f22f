"""Test rows that repeat training rows, exactly or nearly. What is learned by heart is no skill.

Two rows are the same when their requests are, but for capitals, white space and punctuation at the ends of words. They
are nearly the same when answer, numbers and operators are equal and the requests' character 4-grams overlap by at least
0.7 (Jaccard), estimated from 64 min-hashes (Broder 1997; b-bit, Li and König 2010): of rows that overlap by 0.8 more
than 95 in 100 are found, of those that overlap by 0.55 fewer than 2 in 100. 4-grams that more than half of the training
rows share, a common preamble for example, do not count.

A fingerprint keeps of every row 84 bytes, from which nobody can read the row: it stays beside the specialist.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from plural.errors import DataError, SpecialistError
from plural.evals.task import Row

Words = NDArray[np.uint64]

NEAR = 0.7
_GRAM = 4
_HASHES, _BANDS = 64, 16
_LEAST_TO_SHARE = 20  # rows of which some can be said to have something in common
_AT_ONCE = 1_000
_MOST_LOOKED_AT = 64  # training rows that one test row is compared with in one band
_EDGE = re.compile(r"(?<![\d\s])[.,;:!?\"'´`]+(?=\s|$)|(?<!\S)[.,;:!?\"'´`]+(?=[^\d\s])")
_EXACT_PART = re.compile(r"\d+(?:[.,]\d+)*|[+*/^=<>%×÷−]|(?<!\w)-")
_ARRAYS = {
    "line": "line_N",
    "exact": "exact_N",
    "same": "same_N",
    "signature": "signature_NH",
    "common": "common",
}
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_draw = np.random.default_rng(20261127)
_FACTORS_H: Words = _draw.integers(1, 2**63, _HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_TERMS_H: Words = _draw.integers(0, 2**63, _HASHES, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Leak:
    """Line `line` of the test rows repeats line `trained` of the training rows."""

    line: int
    trained: int
    exact: bool


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """N rows: their `line`, hashes of the request (`exact`) and of what near rows must share (`same`), and `signature`.

    `common` are the 4-grams that do not count.
    """

    line_N: NDArray[np.uint32]
    exact_N: Words
    same_N: Words
    signature_NH: NDArray[np.uint8]
    common: Words

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Self:
        grams = [_grams(_request(row)) for row in rows]
        return cls._made(rows, grams, _common(grams))

    @classmethod
    def _made(cls, rows: Sequence[Row], grams: Sequence[Words], common: Words) -> Self:
        return cls(
            np.array([row.line for row in rows], np.uint32),
            np.array([_hash(_request(row)) for row in rows], np.uint64),
            np.array([_hash(_shared(row)) for row in rows], np.uint64),
            _signatures(grams, common),
            common,
        )

    def with_more(self, rows: Sequence[Row]) -> Self:
        """Of these rows and more of them; what does not count stays as it is."""
        more = self._made(rows, [_grams(_request(row)) for row in rows], self.common)
        names = [name for name in _ARRAYS.values() if name != "common"]
        return type(self)(
            *(np.concatenate([getattr(one, name) for one in (self, more)]) for name in names), self.common
        )

    def leaks(self, rows: Sequence[Row]) -> list[Leak]:
        """The test rows that repeat one of these, each with the first that it repeats."""
        tested = self._made(rows, [_grams(_request(row)) for row in rows], self.common)
        first: dict[int, int] = {}
        for place, key in enumerate(self.exact_N.tolist()):
            first.setdefault(key, place)
        found = {
            index: Leak(rows[index].line, int(self.line_N[first[key]]), exact=True)
            for index, key in enumerate(tested.exact_N.tolist())
            if key in first
        }
        for index, place in self._near(tested):
            leak = Leak(rows[index].line, int(self.line_N[place]), exact=False)
            if index not in found or (not found[index].exact and leak.trained < found[index].trained):
                found[index] = leak
        return [found[index] for index in sorted(found)]

    def groups(self) -> list[int]:
        """For every row the first one that it repeats, directly or through others."""
        head = list(range(len(self.line_N)))

        def root(index: int) -> int:
            while head[index] != index:
                head[index] = head[head[index]]
                index = head[index]
            return index

        def join(one: int, other: int) -> None:
            first, second = sorted((root(one), root(other)))
            head[second] = first

        seen: dict[int, int] = {}
        for index, key in enumerate(self.exact_N.tolist()):
            join(seen.setdefault(key, index), index)
        for band in range(_BANDS):
            leaders: dict[int, int] = {}
            for index, key in enumerate(self._band(band).tolist()):
                leader = leaders.setdefault(key, index)
                if leader != index and _alike(self.signature_NH[leader], self.signature_NH[index]):
                    join(leader, index)
        return [root(index) for index in range(len(head))]

    def _near(self, tested: Fingerprint) -> list[tuple[int, int]]:
        """(test row, row of these) of all near pairs that share a band."""
        pairs: set[tuple[int, int]] = set()
        for band in range(_BANDS):
            mine = self._band(band)
            order = np.argsort(mine, kind="stable")
            keys = mine[order]
            theirs = tested._band(band)
            starts, stops = np.searchsorted(keys, theirs, "left"), np.searchsorted(keys, theirs, "right")
            for index in np.flatnonzero(stops > starts).tolist():
                places = order[starts[index] : min(stops[index], starts[index] + _MOST_LOOKED_AT)].tolist()
                pairs.update((index, place) for place in places)
        return [
            (index, place)
            for index, place in sorted(pairs)
            if tested.same_N[index] == self.same_N[place]
            and _alike(tested.signature_NH[index], self.signature_NH[place])
        ]

    def _band(self, band: int) -> Words:
        """One key a row: four of its min-hashes, together with what near rows must share."""
        width = _HASHES // _BANDS
        part_N4 = np.ascontiguousarray(self.signature_NH[:, band * width : (band + 1) * width])
        return _mixed(self.same_N ^ (part_N4.view(np.uint32)[:, 0].astype(np.uint64) * _GOLDEN))

    def to_bytes(self) -> bytes:
        """What `from_bytes` reads: safetensors."""
        return save({name: getattr(self, field) for name, field in _ARRAYS.items()})

    @classmethod
    def from_bytes(cls, content: bytes, source: str) -> Self:
        """Raises SpecialistError for what `to_bytes` did not write."""
        try:
            held = load(content)
            return cls(*(held[name] for name in _ARRAYS))
        except (SafetensorError, KeyError) as error:
            raise SpecialistError(f"{source} is damaged: {error}.", hint="Train the specialist again.") from error


def refuse(leaks: Sequence[Leak], tested: str, trained: str) -> None:
    """Raises DataError naming every pair of lines, if there are any."""
    if leaks:
        pairs = [
            (leak.line, f"{'repeats' if leak.exact else 'nearly repeats'} line {leak.trained} of {trained}")
            for leak in leaks
        ]
        raise DataError(
            tested, pairs, hint=f"A test on rows that were trained on says nothing: take these {len(pairs)} rows out."
        )


# -------------------------------------------------------------------------------------------------------------- hashes
def _request(row: Row) -> str:
    """What is asked, with what stands before it but for instructions, and the names of the tools."""
    said = [message.content for message in row.messages if message.role != "system"]
    return "\n".join([*map(_normal, said), *sorted(tool.name for tool in row.tools)])


def _shared(row: Row) -> str:
    """What the answers and the requests of near rows have in common: other numbers make another question."""
    exact = _EXACT_PART.findall(_request(row))
    return "\n".join([_normal(row.expected), *exact, *sorted(tool.name for tool in row.tools)])


def _normal(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_EDGE.sub("", folded).split())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _grams(text: str) -> Words:
    """The distinct hashes of a text's character 4-grams."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if len(letters) < _GRAM:
        letters = np.concatenate([letters, np.zeros(_GRAM - len(letters), np.uint64)])
    value = np.zeros(len(letters) - _GRAM + 1, np.uint64)
    for offset in range(_GRAM):
        value = value * np.uint64(0x100000001B3) + letters[offset : offset + len(value)]
    return np.unique(_mixed(value))


def _common(grams: Sequence[Words]) -> Words:
    if len(grams) < _LEAST_TO_SHARE:
        return np.zeros(0, np.uint64)
    found, counts = np.unique(np.concatenate(grams), return_counts=True)
    return found[counts > len(grams) / 2]


def _signatures(grams: Sequence[Words], common: Words) -> NDArray[np.uint8]:
    """The low byte of each hash's least value over a row's 4-grams; all zeros for a row of which nothing counts."""
    found_NH = np.zeros((len(grams), _HASHES), np.uint8)
    for start in range(0, len(grams), _AT_ONCE):
        some = grams[start : start + _AT_ONCE]
        every = np.concatenate(some)
        row = np.repeat(np.arange(len(some)), [len(each) for each in some])
        counting = ~np.isin(every, common)
        every, row = every[counting], row[counting]
        starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]]) if len(row) else np.zeros(0, np.intp)
        for number in range(_HASHES if len(row) else 0):
            least = np.minimum.reduceat(every * _FACTORS_H[number] + _TERMS_H[number], starts)
            found_NH[start + row[starts], number] = _mixed(least) >> np.uint64(56)
    return found_NH


def _mixed(value: Words) -> Words:
    """SplitMix64's finish: near values become far ones."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _alike(one_H: NDArray[np.uint8], other_H: NDArray[np.uint8]) -> bool:
    """Whether the estimated overlap reaches the threshold; rows of which nothing counts are never alike."""
    if not one_H.any() or not other_H.any():
        return False
    by_chance = 1 / 256
    equal = float((one_H == other_H).mean())
    return (equal - by_chance) / (1 - by_chance) >= NEAR
