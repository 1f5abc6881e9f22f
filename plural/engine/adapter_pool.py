"""Adapters on their way into pages, and those that are there.

An adapter comes in two steps, neither on the engine's thread: it is loaded and checked, and, when pages were found for
it, copied into them. No step of the engine waits for it; the requests that wear it do.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from typing import Generic, Protocol, TypeVar

from plural.engine.page_pool import PagePool
from plural.errors import PluralError, PoolError, SpecialistError

_log = logging.getLogger(__name__)

# Adapters that may be on their way at once: their parcels are memory outside the pages.
ON_THEIR_WAY = 4


class Parcel(Protocol):
    @property
    def pages(self) -> int: ...


class Copy(Protocol):
    """What lay in an adapter's pages, outside of them."""

    @property
    def pages(self) -> Sequence[int]: ...


ParcelT = TypeVar("ParcelT", bound=Parcel)
PackedT = TypeVar("PackedT")
CopyT = TypeVar("CopyT", bound=Copy)
T = TypeVar("T")


class Machine(Protocol[ParcelT, PackedT, CopyT]):
    """How adapters come. `load` may raise; `keep` copies pages out, `bring_back` into others. Only `keep` is called on
    the engine's thread."""

    def load(self, digest: str) -> ParcelT: ...

    def place(self, parcel: ParcelT, pages: Sequence[int]) -> PackedT: ...

    def keep(self, pages: Sequence[int]) -> CopyT: ...

    def bring_back(self, packed: PackedT, copy: CopyT, pages: Sequence[int]) -> PackedT: ...


class AdapterPool(Generic[ParcelT, PackedT, CopyT]):
    """`loader` runs what takes long; `wake` is called, from any thread, when something of it is done. All methods are
    the engine's thread's.

    An adapter that gives way while a request under way still needs it is kept outside of the pages: its files may be
    gone by the time that it is worn again.
    """

    def __init__(
        self,
        pages: PagePool,
        machine: Machine[ParcelT, PackedT, CopyT],
        loader: Executor,
        wake: Callable[[], None],
    ) -> None:
        self._pages = pages
        self._machine = machine
        self._loader = loader
        self._wake = wake
        self._loading: dict[str, Future[ParcelT]] = {}
        self._placing: dict[str, Future[PackedT]] = {}
        self._packed: dict[str, PackedT] = {}
        self._pinned: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._held: Counter[str] = Counter()
        self._kept: dict[str, tuple[PackedT, CopyT]] = {}
        self.loaded = 0  # how often an adapter was brought into pages

    @property
    def resident(self) -> tuple[str, ...]:
        """The digests that can be worn at once."""
        return tuple(digest for digest in self._pages.adapters if digest in self._packed)

    def __getitem__(self, digest: str) -> PackedT:
        return self._packed[digest]

    def load(self, digest: str) -> ParcelT:
        """May be called from any thread. Raises what loading raises."""
        try:
            parcel = self._machine.load(digest)
        except PluralError:
            raise
        except Exception as error:
            raise _unloadable(digest, error) from error
        self._sizes[digest] = parcel.pages
        return parcel

    def acquire(self, digest: str) -> bool:
        """One more user of the adapter. False when it is not here (yet). Raises what loading it raised."""
        if self._is_here(digest):
            self._pages.use(digest)
            return True
        loading = self._loading.get(digest)
        if loading is not None and loading.done():
            try:
                loading.result()
            except BaseException:
                del self._loading[digest]  # who asks next may have better luck
                raise
        return False

    def release(self, digest: str) -> None:
        self._pages.leave(digest)

    def hold(self, digest: str) -> None:
        """A request that has begun waits to wear the adapter again: it must not be lost, whatever becomes of its
        files."""
        self._held[digest] += 1

    def let_go(self, digest: str) -> None:
        self._held[digest] -= 1
        if not self._held[digest]:
            del self._held[digest]
            self._kept.pop(digest, None)

    @property
    def held(self) -> Mapping[str, int]:
        """How often each adapter is held."""
        return self._held

    def pages_for(self, digest: str) -> int | None:
        """How many pages the adapter takes; None as long as it was never loaded."""
        return self._sizes.get(digest)

    @property
    def pinned_pages(self) -> Mapping[str, int]:
        return {digest: len(self._pages.pages_of(digest)) for digest in self._pinned}

    def collect(self) -> None:
        """Lets those be worn whose copy is done."""
        for digest, placing in list(self._placing.items()):
            if not placing.done():
                continue
            del self._placing[digest]
            if placing.exception() is None:
                self._packed[digest] = placing.result()
                self.loaded += 1
                self._pages.leave(digest)
            else:
                self._pages.drop(digest)
                failed: Future[ParcelT] = Future()
                failed.set_exception(_unloadable(digest, placing.exception()))
                self._loading[digest] = failed

    def rescue(self) -> None:
        """Forgets the adapters that were evicted, and keeps a copy of those that are held: to be called before anything
        is written into pages that were an adapter's."""
        for digest, pages in self._pages.evicted():
            packed = self._packed.pop(digest)
            if digest in self._held and digest not in self._kept:
                try:
                    self._kept[digest] = packed, self._machine.keep(pages)
                except OSError as error:
                    _log.warning("adapter %s is not kept for a request under way: %s", digest[:12], error)

    def want(self, digest: str) -> None:
        """Lets an adapter come, if few enough are on their way, and gives it pages as soon as it is loaded. Of those
        who ask, the first to do so is served first."""
        if self._is_here(digest) or digest in self._placing:
            return
        self.rescue()
        loading = self._loading.get(digest)
        if digest in self._kept:
            packed, copy = self._kept[digest]
            pages = self._room(digest, len(copy.pages))
            if pages is not None:
                del self._kept[digest]
                self._placing[digest] = self._start(self._machine.bring_back, packed, copy, pages)
        elif loading is None:
            if len(self._loading) + len(self._placing) < ON_THEIR_WAY:
                self._loading[digest] = self._start(self.load, digest)
        elif _is_fine(loading):
            parcel = loading.result()
            pages = self._room(digest, parcel.pages)
            if pages is not None:
                del self._loading[digest]
                self._placing[digest] = self._start(self._machine.place, parcel, pages)

    def forget_all_but(self, wanted: Container[str]) -> None:
        """Adapters on their way that nobody wants any more make room for others, unless they have pages already."""
        for digest in [one for one in self._loading if one not in wanted]:
            self._loading.pop(digest).cancel()

    def pin(self, digest: str, parcel: ParcelT) -> None:
        """Keeps an adapter in its pages until `unpin`. Raises PoolError when there are no pages for it now, and what
        copying it raises."""
        if digest in self._pinned:
            return
        if digest in self._placing:
            wait([self._placing[digest]])
            self.collect()
        if not self._is_here(digest):
            self._loading.pop(digest, None)
            pages = self._room(digest, parcel.pages)
            if pages is None:
                raise PoolError(
                    f"Adapter {digest[:12]} takes {parcel.pages} pages, {self._pages.available} can be had now.",
                    hint="Raise memory, or unpin another one.",
                )
            try:
                self._packed[digest] = self._machine.place(parcel, pages)
            except BaseException:
                self._pages.drop(digest)
                raise
            self.loaded += 1
            self._pages.leave(digest)
        self._pages.use(digest)
        self._pinned.add(digest)

    def unpin(self, digest: str) -> None:
        """Lets it be evicted again."""
        if digest in self._pinned:
            self._pinned.discard(digest)
            self._pages.leave(digest)

    @property
    def users(self) -> list[str]:
        """Who holds an adapter's pages besides the requests that wear it: pins, and copies under way."""
        return [*self._pinned, *self._placing]

    # ------------------------------------------------------------------------------------------------------ inside
    def _is_here(self, digest: str) -> bool:
        return digest in self._packed and bool(self._pages.pages_of(digest))

    def _room(self, digest: str, count: int) -> tuple[int, ...] | None:
        """Pages for an adapter, if there are so many now."""
        pages = self._pages.settle(digest, count)
        self.rescue()
        return pages

    def _start(self, work: Callable[..., T], *given: object) -> Future[T]:
        future = self._loader.submit(work, *given)
        future.add_done_callback(lambda _: self._wake())
        return future


def _unloadable(digest: str, error: BaseException | None) -> SpecialistError:
    return SpecialistError(f"Adapter {digest[:12]} could not be loaded: {error}.")


def _is_fine(future: Future[T]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
