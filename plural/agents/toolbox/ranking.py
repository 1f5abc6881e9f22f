"""Which passages of some pages are about a query: words that are rare among the passages count more (BM25)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

from plural.agents.toolbox.html import Page

_SATURATION, _LENGTH = 1.2, 0.75  # BM25's k1 and b, as usual
_PASSAGE = 600  # characters of a passage that are shown


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def best_passages(pages: Mapping[str, Page], query: frozenset[str], most: int) -> list[tuple[str, str, str]]:
    """(URL, title, passage), the best first; none of which has no word of the query."""
    passages = [(url, page.title, line) for url, page in pages.items() for line in page.text.split("\n")]
    counts = [Counter(re.findall(r"\w+", f"{title} {line}".casefold())) for _, title, line in passages]
    mean = sum(map(Counter.total, counts)) / max(len(counts), 1)
    weight = {word: _rarity(sum(word in count for count in counts), len(counts)) for word in query}

    def score(count: Counter[str]) -> float:
        length = _SATURATION * (1 - _LENGTH + _LENGTH * count.total() / mean)
        return sum(weight[word] * count[word] * (_SATURATION + 1) / (count[word] + length) for word in query)

    ranked = sorted(zip(map(score, counts), passages, strict=True), key=lambda pair: -pair[0])
    return [(url, title, line[:_PASSAGE]) for value, (url, title, line) in ranked[:most] if value > 0]


def _rarity(having: int, total: int) -> float:
    return math.log(1 + (total - having + 0.5) / (having + 0.5))
