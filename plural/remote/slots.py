"""The adapters that a server has loaded: on demand, by content, never more than it has slots.

An adapter's name on the server is its digest, and its path a folder of an AdapterStore, which never changes: what is
served under a name cannot become another adapter, whatever happens to the library meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from plural.errors import MachineError, PoolError, SpecialistError
from plural.remote.http import HttpServer, Refusal

_NAME = re.compile(r"[0-9a-f]{64}")
_OFF = "Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."


def served_name(digest: str) -> str:
    return digest.removeprefix("sha256:")


@dataclass(slots=True)
class _Slot:
    loading: asyncio.Task[None]
    users: int = 0
    pins: int = 0


class Slots:
    """Of one server. Everything happens on one event loop. `folder` gives the folder of an adapter's digest, or raises
    what whoever asks for it shall see."""

    def __init__(self, server: HttpServer, folder: Callable[[str], Path], count: int) -> None:
        self.count = count
        self._server, self._folder = server, folder
        # Least recently used first.
        self._slots: dict[str, _Slot] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._freed = asyncio.Event()
        self.loads = 0

    def adopt(self, names: Iterable[str]) -> None:
        """Takes over what the server has: only digests, which are what they are whoever loaded them."""

        async def there() -> None:
            pass

        for name in names:
            if _NAME.fullmatch(name):
                self._slots.setdefault(f"sha256:{name}", _Slot(asyncio.create_task(there())))

    @property
    def loaded(self) -> tuple[str, ...]:
        return tuple(self._slots)

    @asynccontextmanager
    async def held(self, digest: str | None) -> AsyncIterator[str | None]:
        """The name under which the adapter is served meanwhile; None, the base's, for none.

        Raises SpecialistError when the server refuses it, with the reason, MachineError when it cannot be reached.
        """
        if digest is None:
            yield None
            return
        slot = await self._taken(digest)
        slot.users += 1
        try:
            await self._come(digest, slot)
            yield served_name(digest)
        finally:
            slot.users -= 1
            self._freed.set()

    async def again(self, digest: str) -> None:
        """Loads what the server, another client's or a new one, does not have any more."""
        slot = self._slots[digest]
        if slot.loading.done():
            slot.loading = asyncio.create_task(self._load(digest))
        await self._come(digest, slot)

    async def pin(self, digest: str) -> None:
        """Keeps it until `unpin`. Raises PoolError when that would leave no slot for others."""
        if digest not in self._slots or not self._slots[digest].pins:
            pinned = sum(bool(slot.pins) for slot in self._slots.values())
            if pinned + 1 >= self.count:
                raise PoolError(
                    f"{pinned} of the engine's {self.count} slots are pinned; one must stay free.", hint="Unpin one."
                )
        async with self.held(digest):
            self._slots[digest].pins += 1

    def unpin(self, digest: str) -> None:
        slot = self._slots.get(digest)
        if slot is not None and slot.pins:
            slot.pins -= 1
            self._freed.set()

    def check(self) -> None:
        """Raises MachineError when the books are wrong."""
        bad = [digest for digest, slot in self._slots.items() if slot.users < 0 or slot.pins < 0]
        if bad:
            raise MachineError(f"Adapters {bad} are used by less than nobody.", hint="This is a fault of Plural.")

    # ------------------------------------------------------------------------------------------------------- inside
    async def _taken(self, digest: str) -> _Slot:
        """Its slot, as the most recently used; made, when another has given way, if there is none."""
        while True:
            if (going := self._leaving.get(digest)) is not None:
                await asyncio.wait([going])
                continue
            if (slot := self._slots.pop(digest, None)) is not None:
                self._slots[digest] = slot
                return slot
            if len(self._slots) + len(self._leaving) < self.count:
                slot = self._slots[digest] = _Slot(asyncio.create_task(self._load(digest)))
                return slot
            await self._make_room()

    async def _make_room(self) -> None:
        idle = next((digest for digest, slot in self._slots.items() if not slot.users and not slot.pins), None)
        if idle is not None:
            del self._slots[idle]
            self._leaving[idle] = asyncio.create_task(self._unload(idle))
        if self._leaving:
            await asyncio.wait(list(self._leaving.values()), return_when=asyncio.FIRST_COMPLETED)
            return
        self._freed.clear()
        await self._freed.wait()

    async def _come(self, digest: str, slot: _Slot) -> None:
        try:
            await asyncio.shield(slot.loading)
        except BaseException:
            failed = slot.loading.done() and (slot.loading.cancelled() or slot.loading.exception())
            if failed and self._slots.get(digest) is slot:
                del self._slots[digest]
            raise

    async def _load(self, digest: str) -> None:
        path = await asyncio.to_thread(self._folder, digest)
        try:
            await self._server.post("/v1/load_lora_adapter", {"lora_name": served_name(digest), "lora_path": str(path)})
        except Refusal as refusal:
            if "already" in refusal.said and "loaded" in refusal.said:
                return  # by another client; the name says what it is
            raise _refused(self._server.url, digest, path, refusal) from refusal
        self.loads += 1

    async def _unload(self, digest: str) -> None:
        try:
            # Another client may have done it already; a server that is gone has nothing loaded.
            with contextlib.suppress(Refusal, MachineError):
                await self._server.post("/v1/unload_lora_adapter", {"lora_name": served_name(digest)})
        finally:
            del self._leaving[digest]
            self._freed.set()


def _refused(url: str, digest: str, path: Path, refusal: Refusal) -> SpecialistError:
    hint = ""
    if refusal.said in ("Not Found", "Method Not Allowed"):
        hint = _OFF
    elif "rank" in refusal.said:
        hint = "Start it with a higher --max-lora-rank, or train the specialist with a lower rank."
    elif refusal.status == 404 or "No such file" in refusal.said or "lora_path" in refusal.said:
        hint = f"It must be able to read {path}: set PLURAL_CACHE to a folder that both machines have."
    return SpecialistError(f"The engine at {url} refuses the adapter {digest}: {refusal.said.rstrip('.')}.", hint=hint)
