"""Adapters on their way into pages, and those that are there.

An adapter comes in two steps, neither on the engine's thread: it is loaded and checked, and, when pages were found for
it, copied into them. No step of the engine waits for it; the requests that wear it do.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from plural.engine.page_pool import PagePool
from plural.errors import PluralError, PoolError, SpecialistError

# Adapters that may be on their way at once: their parcels are memory outside the pages.
ON_THEIR_WAY = 4


class Parcel(Protocol):
    @property
    def pages(self) -> int: ...


ParcelT = TypeVar("ParcelT", bound=Parcel)
PackedT = TypeVar("PackedT")
T = TypeVar("T")


@dataclass(slots=True)
class _Coming(Generic[ParcelT, PackedT]):
    parcel: Future[ParcelT]
    packed: Future[PackedT] | None = None


class AdapterPool(Generic[ParcelT, PackedT]):
    """`load` makes a parcel of a digest and may raise, `place` copies one into pages; `loader` runs both.

    `wake` is called, from any thread, when one of them is done. All methods are the engine's thread's.
    """

    def __init__(
        self,
        pages: PagePool,
        load: Callable[[str], ParcelT],
        place: Callable[[ParcelT, Sequence[int]], PackedT],
        loader: Executor,
        wake: Callable[[], None],
    ) -> None:
        self._pages = pages
        self._load = load
        self._place = place
        self._loader = loader
        self._wake = wake
        self._coming: dict[str, _Coming[ParcelT, PackedT]] = {}
        self._packed: dict[str, PackedT] = {}
        self._pinned: set[str] = set()
        self._sizes: dict[str, int] = {}
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
            parcel = self._load(digest)
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
        coming = self._coming.get(digest)
        if coming is not None and coming.packed is None and coming.parcel.done():
            try:
                coming.parcel.result()
            except BaseException:
                del self._coming[digest]  # who asks next may have better luck
                raise
        return False

    def release(self, digest: str) -> None:
        self._pages.leave(digest)

    def pages_for(self, digest: str) -> int | None:
        """How many pages the adapter takes; None as long as it was never loaded."""
        return self._sizes.get(digest)

    @property
    def pinned_pages(self) -> Mapping[str, int]:
        return {digest: len(self._pages.pages_of(digest)) for digest in self._pinned}

    def collect(self) -> None:
        """Lets those be worn whose copy is done, and forgets those that were evicted."""
        for digest, coming in list(self._coming.items()):
            if coming.packed is None or not coming.packed.done():
                continue
            if coming.packed.exception() is None:
                del self._coming[digest]
                self._packed[digest] = coming.packed.result()
                self.loaded += 1
                self._pages.leave(digest)
            else:
                self._pages.drop(digest)
                failed: Future[ParcelT] = Future()
                failed.set_exception(_unloadable(digest, coming.packed.exception()))
                self._coming[digest] = _Coming(failed)
        for digest in self._packed.keys() - set(self._pages.adapters):
            del self._packed[digest]

    def want(self, digest: str) -> None:
        """Lets an adapter come, if few enough are on their way, and gives it pages as soon as it is loaded. Of those
        who ask, the first to do so is served first."""
        if self._is_here(digest):
            return
        coming = self._coming.get(digest)
        if coming is None:
            if len(self._coming) < ON_THEIR_WAY:
                self._coming[digest] = _Coming(self._start(self.load, digest))
        elif coming.packed is None and _is_fine(coming.parcel):
            self._settle(digest, coming)

    def forget_all_but(self, wanted: Container[str]) -> None:
        """Adapters on their way that nobody wants any more make room for others, unless they have pages already."""
        for digest in [one for one, coming in self._coming.items() if coming.packed is None and one not in wanted]:
            self._coming.pop(digest).parcel.cancel()

    def pin(self, digest: str, parcel: ParcelT) -> None:
        """Keeps an adapter in its pages until `unpin`. Raises PoolError when there are no pages for it now."""
        if digest in self._pinned:
            return
        coming = self._coming.get(digest)
        if coming is not None and coming.packed is not None:
            wait([coming.packed])
            self.collect()
        if not self._is_here(digest):
            self._coming.pop(digest, None)
            pages = self._pages.settle(digest, parcel.pages)
            if pages is None:
                raise PoolError(
                    f"Adapter {digest[:12]} takes {parcel.pages} pages, {self._pages.available} can be had now.",
                    hint="Raise memory, or unpin another one.",
                )
            self._packed[digest] = self._place(parcel, pages)
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
        """Who holds an adapter besides the requests that wear it: pins, and copies under way."""
        return [*self._pinned, *(digest for digest, coming in self._coming.items() if coming.packed is not None)]

    # ------------------------------------------------------------------------------------------------------ inside
    def _is_here(self, digest: str) -> bool:
        return digest in self._packed and bool(self._pages.pages_of(digest))

    def _settle(self, digest: str, coming: _Coming[ParcelT, PackedT]) -> None:
        """Starts the copy, if there are pages for it now."""
        parcel = coming.parcel.result()
        pages = self._pages.settle(digest, parcel.pages)
        if pages is not None:
            self._packed.pop(digest, None)  # of the pages that it had once
            coming.packed = self._start(self._place, parcel, pages)

    def _start(self, work: Callable[..., T], *given: object) -> Future[T]:
        future = self._loader.submit(work, *given)
        future.add_done_callback(lambda _: self._wake())
        return future


def _unloadable(digest: str, error: BaseException | None) -> SpecialistError:
    return SpecialistError(f"Adapter {digest[:12]} could not be loaded: {error}.")


def _is_fine(future: Future[T]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
