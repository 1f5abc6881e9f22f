"""Who owns which page: keys and values of requests, a known prefix, or a piece of an adapter. No torch.

Two kinds live in one pool (S-LoRA's unified paging, arXiv 2311.03285). A page of keys and values is in use by one
request or several, or it is kept: nobody refers to it, but its content is known by hash and is found again. The pages
of an adapter belong together: they are in use by the requests that wear it, or kept. What is kept gives way, the least
recently used first, when room is needed. All other pages are free.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Sequence

from plural.errors import MachineError
from plural.types import Mixture

# Page 0 belongs to nobody and is never written: block tables are padded with it.
NULL_PAGE = 0


# Where the chain of hashes of every sequence starts.
ROOT = hashlib.sha256(b"plural").digest()


def page_hash(parent: bytes, tokens: Sequence[int], end: int, worn: Mixture) -> bytes:
    """Hash of one full page that ends before position `end`, given the hash of everything before it.

    It is of all that the keys and values depend on, by content, never by name. Before the offset of an activated
    adapter that is the base, so that the base and every such adapter read the same pages.
    """
    who = "|".join(f"{one.digest}@{one.scale!r}+{one.offset}" for one in worn if one.offset < end).encode()
    return hashlib.sha256(parent + len(who).to_bytes(4) + who + array("q", tokens).tobytes()).digest()


class PagePool:
    """Page bookkeeping for `num_pages` pages, numbered from 1."""

    def __init__(self, num_pages: int, page_size: int, *, prefix_cache: bool = True) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.prefix_cache = prefix_cache
        self._free = list(range(num_pages, 0, -1))
        self._references = [0] * (num_pages + 1)
        self._page_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._blocks: dict[str, tuple[int, ...]] = {}
        self._users: dict[str, int] = {}
        # What nobody uses now, the least recently used first: pages by number, adapters by digest.
        self._kept: OrderedDict[int | str, None] = OrderedDict()
        self._available = num_pages
        self._foreign: set[int] = set()
        self._soiled: list[int] = []
        self._evicted: list[tuple[str, tuple[int, ...]]] = []

    @property
    def available(self) -> int:
        """Pages that can be had now: free ones, and those of what nobody uses."""
        return self._available

    @property
    def used(self) -> int:
        return self.num_pages - self._available

    @property
    def cached(self) -> int:
        """Pages of keys and values that nobody uses now and that are still known."""
        return len(self._kept) - (len(self._blocks) - len(self._users))

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    # ------------------------------------------------------------------------------------------- keys and values
    def take(self, count: int) -> list[int] | None:
        """`count` pages with one reference each, or None if there are not so many."""
        pages = self._take(count)
        for page in pages or ():
            self._references[page] = 1
            if page in self._foreign:
                self._foreign.discard(page)
                self._soiled.append(page)
        return pages

    def soiled(self) -> list[int]:
        """Pages taken since the last call for keys and values that still hold a piece of an adapter: clear them."""
        pages, self._soiled = self._soiled, []
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """One more reference to each page."""
        for page in pages:
            if self._references[page] == 0:
                del self._kept[page]
                self._available -= 1
            self._references[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """One reference less to each page. The end of a sequence is evicted before its beginning."""
        for page in reversed(pages):
            if self._references[page] < 1:
                raise MachineError(f"KV page {page} was released more often than taken.")
            self._references[page] -= 1
            if self._references[page] == 0:
                self._available += 1
                if page in self._hash_of:
                    self._kept[page] = None
                else:
                    self._free.append(page)

    def known(self, hashes: Sequence[bytes]) -> int:
        """How many of the first of `hashes` are known, up to the first that is not."""
        return next((at for at, chained in enumerate(hashes) if chained not in self._page_of), len(hashes))

    def match(self, hashes: Sequence[bytes]) -> list[int]:
        """The pages known under the first of `hashes`, up to the first that is not, a reference taken to each."""
        found = [self._page_of[chained] for chained in hashes[: self.known(hashes)]]
        self.share(found)
        return found

    def register(self, page: int, chained: bytes) -> None:
        """Says what a full page holds. A second page with the same content stays unknown."""
        if self.prefix_cache and chained not in self._page_of and page not in self._hash_of:
            self._page_of[chained] = page
            self._hash_of[page] = chained

    # ---------------------------------------------------------------------------------------------------- adapters
    @property
    def adapters(self) -> tuple[str, ...]:
        """The digests of the adapters that have pages."""
        return tuple(self._blocks)

    def pages_of(self, digest: str) -> tuple[int, ...]:
        """The adapter's pages; none if it has been evicted."""
        return self._blocks.get(digest, ())

    def settle(self, digest: str, count: int) -> tuple[int, ...] | None:
        """`count` pages for an adapter, with one user, or None if there are not so many."""
        pages = self._take(count)
        if pages is None:
            return None
        self._foreign.update(pages)
        self._blocks[digest] = tuple(pages)
        self._users[digest] = 1
        return self._blocks[digest]

    def use(self, digest: str) -> None:
        """One more user of an adapter that has pages."""
        if digest in self._kept:
            del self._kept[digest]
            self._available -= len(self._blocks[digest])
        self._users[digest] = self._users.get(digest, 0) + 1

    def leave(self, digest: str) -> None:
        """One user less."""
        left = self._users[digest] - 1
        if left:
            self._users[digest] = left
            return
        del self._users[digest]
        self._kept[digest] = None
        self._available += len(self._blocks[digest])

    def evicted(self) -> list[tuple[str, tuple[int, ...]]]:
        """Adapters that gave way since the last call, and their pages: to be read before anybody writes there."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def drop(self, digest: str) -> None:
        """Frees the pages of an adapter that has one user, who leaves."""
        self.leave(digest)
        del self._kept[digest]
        self._free += self._blocks.pop(digest)

    # ------------------------------------------------------------------------------------------------------ inside
    def _take(self, count: int) -> list[int] | None:
        if count > self._available:
            return None
        while len(self._free) < count:
            oldest, _ = self._kept.popitem(last=False)
            if isinstance(oldest, str):
                self._evicted.append((oldest, self._blocks[oldest]))
                self._free += self._blocks.pop(oldest)
            else:
                self._forget(oldest)
                self._free.append(oldest)
        self._available -= count
        return [self._free.pop() for _ in range(count)]

    def _forget(self, page: int) -> None:
        chained = self._hash_of.pop(page, None)
        if chained is not None:
            del self._page_of[chained]

    def check(self, holders: Sequence[Sequence[int]], users: Sequence[str] = ()) -> None:
        """Every page is free, kept or in use, once; the references are exactly those of `holders`, the users of
        adapters exactly `users` (one entry a user). Raises MachineError."""
        expected = [0] * (self.num_pages + 1)
        for pages in holders:
            for page in pages:
                expected[page] += 1
        if expected != self._references:
            wrong = [page for page, (a, b) in enumerate(zip(expected, self._references, strict=True)) if a != b]
            raise MachineError(f"KV pages {wrong[:10]} have other references than their holders.")
        if Counter(users) != self._users:
            raise MachineError(f"Adapters are held by {self._users}, but used by {dict(Counter(users))}.")
        kept = [page for page in self._kept if isinstance(page, int)]
        blocks = [page for pages in self._blocks.values() for page in pages]
        states = [*self._free, *kept, *blocks, *(page for page, n in enumerate(self._references) if n)]
        if sorted(states) != list(range(1, self.num_pages + 1)):
            raise MachineError(f"Pages were lost or doubled: {self.num_pages} pages, accounted {len(states)}.")
        idle = {digest for digest in self._kept if isinstance(digest, str)}
        if idle != set(self._blocks) - set(self._users):
            raise MachineError(f"Adapters {sorted(idle ^ (set(self._blocks) - set(self._users)))} are in use and kept.")
        if self._available != len(self._free) + len(kept) + sum(len(self._blocks[digest]) for digest in idle):
            raise MachineError(f"{self._available} pages are said to be available, but others are.")
        if {page: chained for chained, page in self._page_of.items()} != self._hash_of:
            raise MachineError("The prefix cache's two directions disagree.")
