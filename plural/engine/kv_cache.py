"""Who owns which page of the KV pool, and which pages hold a prefix that somebody may read again. No torch.

A page is free, or used (one reference or more), or cached: nobody refers to it, but its content is known by hash and
it is found again until its room is needed. The least recently used cached page is evicted first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from plural.errors import MachineError
from plural.types import AdapterRef

# Page 0 belongs to nobody and is never written: block tables are padded with it.
NULL_PAGE = 0


# Where the chain of hashes of every sequence starts.
ROOT = hashlib.sha256(b"plural").digest()


def page_hash(parent: bytes, tokens: Sequence[int], end: int, worn: AdapterRef | None) -> bytes:
    """Hash of one full page that ends before position `end`, given the hash of everything before it.

    It is of all that the keys and values depend on, by content, never by name. Before the offset of an activated
    adapter that is the base, so that the base and every such adapter read the same pages.
    """
    who = b""
    if worn is not None and worn.offset < end:
        who = f"{worn.digest}@{worn.scale!r}+{worn.offset}".encode()
    return hashlib.sha256(parent + len(who).to_bytes(4) + who + array("q", tokens).tobytes()).digest()


class KVCache:
    """Page bookkeeping for `num_pages` pages, numbered from 1."""

    def __init__(self, num_pages: int, page_size: int, *, prefix_cache: bool = True) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.prefix_cache = prefix_cache
        self._free = list(range(num_pages, 0, -1))
        self._references = [0] * (num_pages + 1)
        self._page_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Pages that can be had now: free ones and cached ones."""
        return len(self._free) + len(self._cached)

    @property
    def used(self) -> int:
        return self.num_pages - self.available

    @property
    def cached(self) -> int:
        return len(self._cached)

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def take(self, count: int) -> list[int] | None:
        """`count` pages with one reference each, or None if there are not so many."""
        if count > self.available:
            return None
        return [self._take_one() for _ in range(count)]

    def _take_one(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._cached.popitem(last=False)
            self._forget(page)
        self._references[page] = 1
        return page

    def share(self, pages: Sequence[int]) -> None:
        """One more reference to each page."""
        for page in pages:
            if self._references[page] == 0:
                del self._cached[page]
            self._references[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """One reference less to each page. The end of a sequence is evicted before its beginning."""
        for page in reversed(pages):
            if self._references[page] < 1:
                raise MachineError(f"KV page {page} was released more often than taken.")
            self._references[page] -= 1
            if self._references[page] == 0:
                if page in self._hash_of:
                    self._cached[page] = None
                else:
                    self._free.append(page)

    def match(self, tokens: Sequence[int], worn: AdapterRef | None) -> list[int]:
        """The cached pages of the longest known prefix of `tokens` read with `worn`, a reference taken to each."""
        found: list[int] = []
        if self.prefix_cache:
            for chained in self._chain(tokens, worn):
                page = self._page_of.get(chained)
                if page is None:
                    break
                found.append(page)
        self.share(found)
        return found

    def register(self, page: int, chained: bytes) -> None:
        """Says what a full page holds. A second page with the same content stays unknown."""
        if self.prefix_cache and chained not in self._page_of and page not in self._hash_of:
            self._page_of[chained] = page
            self._hash_of[page] = chained

    def _chain(self, tokens: Sequence[int], worn: AdapterRef | None) -> Iterator[bytes]:
        chained = ROOT
        for end in range(self.page_size, len(tokens) + 1, self.page_size):
            chained = page_hash(chained, tokens[end - self.page_size : end], end, worn)
            yield chained

    def _forget(self, page: int) -> None:
        chained = self._hash_of.pop(page, None)
        if chained is not None:
            del self._page_of[chained]

    def check(self, holders: Sequence[Sequence[int]]) -> None:
        """Free + cached + used = all, and the references are exactly those of `holders`. Raises MachineError."""
        expected = [0] * (self.num_pages + 1)
        for pages in holders:
            for page in pages:
                expected[page] += 1
        states = sorted([*self._free, *self._cached, *(p for p, n in enumerate(self._references) if n)])
        if states != list(range(1, self.num_pages + 1)):
            raise MachineError(f"KV pages were lost or doubled: {self.num_pages} pages, accounted {len(states)}.")
        if expected != self._references:
            wrong = [page for page, (a, b) in enumerate(zip(expected, self._references, strict=True)) if a != b]
            raise MachineError(f"KV pages {wrong[:10]} have other references than their holders.")
        if {page: chained for chained, page in self._page_of.items()} != self._hash_of:
            raise MachineError("The prefix cache's two directions disagree.")
