"""The page books: nothing lost, nothing doubled, nothing found that was not put there."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plural.engine.page_pool import NULL_PAGE, ROOT, PagePool, page_hash
from plural.errors import MachineError
from plural.types import AdapterRef

PAGE = 16


def hashes(tokens: list[int], worn: AdapterRef | None = None) -> list[bytes]:
    """Of every full page."""
    found = [ROOT]
    for end in range(PAGE, len(tokens) + 1, PAGE):
        found.append(page_hash(found[-1], tokens[end - PAGE : end], end, (worn,) if worn else ()))
    return found[1:]


def fill(cache: PagePool, tokens: list[int], worn: AdapterRef | None = None) -> list[int]:
    """Pages for `tokens`, full ones registered."""
    pages = cache.take(cache.pages_for(len(tokens)))
    assert pages is not None
    for page, chained in zip(pages, hashes(tokens, worn), strict=False):
        cache.register(page, chained)
    return pages


def test_a_prefix_is_found_page_by_page() -> None:
    cache = PagePool(8, PAGE)
    tokens = list(range(40))
    pages = fill(cache, tokens)
    cache.release(pages)
    assert cache.match(hashes(tokens)) == pages[:2]
    assert cache.match(hashes([*tokens[:16], 99, *tokens[17:]])) == pages[:1]
    assert cache.match(hashes([99, *tokens[1:]])) == []


def test_the_key_is_what_the_adapter_is_its_scale_and_its_offset() -> None:
    refs = [AdapterRef(digest, scale, offset) for digest in "ab" for scale in (1.0, 0.5) for offset in (0, 3)]
    worn = [(), *((one,) for one in refs), *((one, two) for one in refs[:4] for two in refs[4:])]
    assert len({page_hash(ROOT, range(PAGE), PAGE, one) for one in worn}) == len(worn)
    again = [page_hash(ROOT, range(PAGE), PAGE, (AdapterRef("a"),)) for _ in range(2)]
    assert again[0] == again[1]


def test_before_its_offset_an_activated_adapter_reads_the_pages_of_the_base() -> None:
    cache, tokens = PagePool(8, PAGE), list(range(48))
    base = fill(cache, tokens)
    assert cache.match(hashes(tokens, AdapterRef("a", offset=32))) == base[:2]
    assert cache.match(hashes(tokens, AdapterRef("b", offset=31))) == base[:1]
    assert cache.match(hashes(tokens, AdapterRef("a", offset=48))) == base
    assert cache.match(hashes(tokens, AdapterRef("a"))) == []


def test_the_end_of_the_least_recent_prefix_is_evicted_first() -> None:
    cache = PagePool(4, PAGE)
    old = fill(cache, [1] * 32)
    cache.release(old)
    new = fill(cache, [2] * 32)
    cache.release(new)
    cache.release(cache.match(hashes([1] * 32)))  # now the older one was used last
    taken = cache.take(1)
    assert taken == [new[1]]
    assert cache.match(hashes([2] * 32)) == new[:1]


def test_pages_in_use_are_never_evicted_and_taking_is_all_or_nothing() -> None:
    cache = PagePool(3, PAGE)
    held = fill(cache, [1] * 32)
    assert cache.take(2) is None
    assert cache.available == 1
    cache.check([held])


def test_releasing_twice_is_an_error() -> None:
    cache = PagePool(2, PAGE)
    pages = cache.take(1)
    assert pages is not None
    cache.release(pages)
    with pytest.raises(MachineError, match="released more often"):
        cache.release(pages)


def test_a_lost_page_is_noticed() -> None:
    cache = PagePool(2, PAGE)
    cache.take(1)
    with pytest.raises(MachineError, match="other references"):
        cache.check([])


def test_adapters_and_keys_give_way_to_each_other_the_least_recent_first() -> None:
    pool = PagePool(8, PAGE)
    prefix = fill(pool, [1] * 32)
    pages = pool.settle("a", 3)
    assert pages is not None
    pool.release(prefix)
    pool.leave("a")
    assert (pool.available, pool.used, pool.cached) == (8, 0, 2)
    assert pool.take(4) is not None  # three free ones, and the end of the prefix
    assert pool.adapters == ("a",)
    assert pool.match(hashes([1] * 32)) == prefix[:1]
    pool.release(prefix[:1])
    taken = pool.take(2)  # the adapter was used last before the prefix was
    assert taken is not None
    assert pool.adapters == ()
    assert pool.pages_of("a") == ()
    assert sorted(pool.soiled()) == sorted(set(taken) & set(pages))
    assert pool.soiled() == []
    assert pool.match(hashes([1] * 32)) == prefix[:1]


def test_an_adapter_in_use_keeps_its_pages() -> None:
    pool = PagePool(4, PAGE)
    assert pool.settle("a", 3) is not None
    pool.use("a")
    pool.leave("a")
    assert pool.take(2) is None
    assert pool.settle("b", 2) is None
    pool.check([], ["a"])
    pool.leave("a")
    assert pool.settle("b", 2) is not None
    assert pool.adapters == ("b",)
    with pytest.raises(MachineError, match="used by"):
        pool.check([])


WHO = [None, *(AdapterRef(name, scale, offset) for name in "ab" for scale in (1.0, 0.5) for offset in (0, 20, 32))]


def content(seeds: list[int], worn: AdapterRef | None, page: int) -> tuple[object, ...]:
    """All that the keys and values of a page were computed from: its tokens, those before it, and who read them."""
    return (*seeds[: page + 1], worn if worn is not None and worn.offset < (page + 1) * PAGE else None)


class Books(RuleBasedStateMachine):
    """Any order of matching, filling and releasing, against a plain dict of what each page must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PagePool(12, PAGE)
        self.held: list[list[int]] = []
        self.holds: dict[int, tuple[object, ...]] = {}
        self.worn: list[str] = []

    @rule(
        seeds=st.lists(st.integers(0, 1), min_size=1, max_size=5), extra=st.integers(0, 15), worn=st.sampled_from(WHO)
    )
    def read(self, seeds: list[int], extra: int, worn: AdapterRef | None) -> None:
        tokens = [seed for seed in seeds for _ in range(PAGE)]
        found = self.cache.match(hashes(tokens, worn))
        for i, page in enumerate(found):
            assert self.holds[page] == content(seeds, worn, i)
        more = self.cache.take(self.cache.pages_for(len(tokens) + extra) - len(found))
        if more is None:
            self.cache.release(found)
            return
        pages = [*found, *more]
        for i, (page, chained) in enumerate(zip(pages, hashes(tokens, worn), strict=False)):
            if i >= len(found):
                self.holds[page] = content(seeds, worn, i)
                self.cache.register(page, chained)
        self.held.append(pages)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        self.cache.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @rule(digest=st.sampled_from("abc"), count=st.integers(1, 6))
    def wear(self, digest: str, count: int) -> None:
        if self.cache.pages_of(digest):
            self.cache.use(digest)
        elif self.cache.settle(digest, count) is None:
            return
        self.worn.append(digest)

    @precondition(lambda self: self.worn)
    @rule(data=st.data())
    def take_off(self, data: st.DataObject) -> None:
        self.cache.leave(self.worn.pop(data.draw(st.integers(0, len(self.worn) - 1))))

    @invariant()
    def books_are_right(self) -> None:
        self.cache.check(self.held, self.worn)
        used = {page for pages in self.held for page in pages}
        used |= {page for digest in self.worn for page in self.cache.pages_of(digest)}
        assert NULL_PAGE not in used
        assert self.cache.used == len(used)


Books.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestBooks = Books.TestCase
