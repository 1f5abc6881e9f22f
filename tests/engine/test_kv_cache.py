"""The page books: nothing lost, nothing doubled, nothing found that was not put there."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plural.engine.kv_cache import NULL_PAGE, ROOT, KVCache, page_hash
from plural.errors import MachineError
from plural.types import AdapterRef

PAGE = 16


def fill(cache: KVCache, tokens: list[int], worn: AdapterRef | None = None) -> list[int]:
    """Pages for `tokens`, full ones registered."""
    pages = cache.take(cache.pages_for(len(tokens)))
    assert pages is not None
    chained = ROOT
    for i in range(len(tokens) // PAGE):
        chained = page_hash(chained, tokens[i * PAGE : (i + 1) * PAGE], (i + 1) * PAGE, worn)
        cache.register(pages[i], chained)
    return pages


def test_a_prefix_is_found_page_by_page() -> None:
    cache = KVCache(8, PAGE)
    tokens = list(range(40))
    pages = fill(cache, tokens)
    cache.release(pages)
    assert cache.match(tokens, None) == pages[:2]
    assert cache.match([*tokens[:16], 99, *tokens[17:]], None) == pages[:1]
    assert cache.match([99, *tokens[1:]], None) == []


def test_the_key_is_what_the_adapter_is_its_scale_and_its_offset() -> None:
    worn = (None, *(AdapterRef(digest, scale, offset) for digest in "ab" for scale in (1.0, 0.5) for offset in (0, 3)))
    assert len({page_hash(ROOT, range(PAGE), PAGE, one) for one in worn}) == len(worn)
    assert page_hash(ROOT, range(PAGE), PAGE, AdapterRef("a")) == page_hash(ROOT, range(PAGE), PAGE, AdapterRef("a"))


def test_before_its_offset_an_activated_adapter_reads_the_pages_of_the_base() -> None:
    cache, tokens = KVCache(8, PAGE), list(range(48))
    base = fill(cache, tokens)
    assert cache.match(tokens, AdapterRef("a", offset=32)) == base[:2]
    assert cache.match(tokens, AdapterRef("b", offset=31)) == base[:1]
    assert cache.match(tokens, AdapterRef("a", offset=48)) == base
    assert cache.match(tokens, AdapterRef("a")) == []


def test_the_end_of_the_least_recent_prefix_is_evicted_first() -> None:
    cache = KVCache(4, PAGE)
    old = fill(cache, [1] * 32)
    cache.release(old)
    new = fill(cache, [2] * 32)
    cache.release(new)
    cache.release(cache.match([1] * 32, None))  # now the older one was used last
    taken = cache.take(1)
    assert taken == [new[1]]
    assert cache.match([2] * 32, None) == new[:1]


def test_pages_in_use_are_never_evicted_and_taking_is_all_or_nothing() -> None:
    cache = KVCache(3, PAGE)
    held = fill(cache, [1] * 32)
    assert cache.take(2) is None
    assert cache.available == 1
    cache.check([held])


def test_releasing_twice_is_an_error() -> None:
    cache = KVCache(2, PAGE)
    pages = cache.take(1)
    assert pages is not None
    cache.release(pages)
    with pytest.raises(MachineError, match="released more often"):
        cache.release(pages)


def test_a_lost_page_is_noticed() -> None:
    cache = KVCache(2, PAGE)
    cache.take(1)
    with pytest.raises(MachineError, match="other references"):
        cache.check([])


class Books(RuleBasedStateMachine):
    """Any order of matching, filling and releasing, against a plain dict of what each page must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = KVCache(12, PAGE)
        self.held: list[list[int]] = []
        self.holds: dict[int, tuple[int, ...]] = {}

    @rule(seeds=st.lists(st.integers(0, 2), min_size=1, max_size=5), extra=st.integers(0, 15))
    def read(self, seeds: list[int], extra: int) -> None:
        tokens = [seed for seed in seeds for _ in range(PAGE)]
        found = self.cache.match(tokens, None)
        for i, page in enumerate(found):
            assert self.holds[page] == tuple(seeds[: i + 1])
        more = self.cache.take(self.cache.pages_for(len(tokens) + extra) - len(found))
        if more is None:
            self.cache.release(found)
            return
        pages = [*found, *more]
        chained = ROOT
        for i, page in enumerate(pages[: len(seeds)]):
            chained = page_hash(chained, tokens[i * PAGE : (i + 1) * PAGE], (i + 1) * PAGE, None)
            if i >= len(found):
                self.holds[page] = tuple(seeds[: i + 1])
                self.cache.register(page, chained)
        self.held.append(pages)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        self.cache.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def books_are_right(self) -> None:
        self.cache.check(self.held)
        assert all(NULL_PAGE not in pages for pages in self.held)
        assert self.cache.used == len({page for pages in self.held for page in pages})


Books.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestBooks = Books.TestCase
