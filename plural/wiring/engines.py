"""Which engine a network stands on: ours in this process, a cluster's, or one behind HTTP, started if need be."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from plural.errors import SettingsError, SpecialistError
from plural.specialists import Library, adapter_digest, write_adapter
from plural.specialists.adapter_store import AdapterStore
from plural.specialists.combining import combined
from plural.types import Mixture
from plural.wiring.cluster import cluster_engine
from plural.wiring.settings import Settings

if TYPE_CHECKING:
    from plural.engine import Engine
    from plural.engine.interface import TokenEngine
    from plural.models.base import Base

_READER_TOKENS = 8192
# What an engine that runs already cannot be told any more, and what vLLM has not.
_NOT_STARTED = ("dtype", "max_running", "memory")
_NOT_VLLM = ("memory",)


def open_engine(
    base: Base, library: Library, settings: Settings, packed: Path, told: Callable[[str], None]
) -> tuple[TokenEngine, ExitStack]:
    """The engine, and what has to be closed after it. `told` hears what is waited for.

    Raises SettingsError for an engine that there is not, MachineError for one that cannot be reached or started.
    """
    if settings.cluster is not None:
        if settings.engine != "plural":
            raise SettingsError(
                f"engine is {settings.engine!r} and cluster is {settings.cluster!r}.",
                hint="Say which computes; what a cluster's replicas compute with is said by plural deploy --engine.",
            )
        return cluster_engine(base, settings), ExitStack()
    from plural.remote import RemoteEngine, read_address
    from plural.remote.launch import Machine, launch

    key = settings.engine_key.get_secret_value() if settings.engine_key else None
    address = read_address(settings.engine, key=key, slots=settings.engine_slots)
    after = ExitStack()
    if address is None:
        return _ours(base, library, settings, packed), after
    _refuse(settings, _NOT_STARTED if address.url else _NOT_VLLM)
    shelf = LibraryShelf(base, library, adapter_store(settings))
    try:
        if not address.url:
            machine = Machine(
                settings.resolve(settings.cache), settings.dtype, settings.max_running, threads=settings.threads
            )
            address = launch(base, address, machine, after, told)

        @functools.cache
        def reader() -> Engine:
            engine = _ours(base, library, settings, packed, kv_tokens=_READER_TOKENS)
            after.callback(engine.close)
            return engine

        return RemoteEngine(address, base, shelf, reader), after
    except BaseException:
        after.close()
        raise


def _refuse(settings: Settings, names: tuple[str, ...]) -> None:
    """Raises SettingsError for an option that would not be honoured."""
    for name in names:
        if getattr(settings, name) != Settings.model_fields[name].default:
            raise SettingsError(
                f"{name} is {getattr(settings, name)!r}, which the engine {settings.engine} cannot be told.",
                hint="Start that engine with what you want, or use Plural's own.",
            )


def _ours(base: Base, library: Library, settings: Settings, packed: Path, **more: int) -> Engine:
    from plural.engine import Engine, EngineSettings

    shape = base.shape
    return Engine(
        base.decoder,
        base.tokenizer,
        lambda digest: library.load(digest, shape),
        EngineSettings(**settings.model_dump(include={"threads", "dtype", "max_running", "memory"}), **more),
        packed=packed,
    )


def adapter_store(settings: Settings) -> AdapterStore:
    return AdapterStore(settings.resolve(settings.cache) / "adapters")


@dataclass(frozen=True)
class LibraryShelf:
    """The library's adapters, copied to where nobody changes them (`plural.remote.engine.Shelf`)."""

    base: Base
    library: Library
    store: AdapterStore
    _combined: dict[Mixture, str] = field(default_factory=dict)

    def folder(self, digest: str) -> Path:
        found = self.store.path(digest)
        if found.is_dir():
            return found
        specialist = self.library.by_digest(digest)
        specialist.load(self.base.shape)  # says what is wrong with it, in our words
        try:
            return self.store.put(specialist.path, digest)
        except SpecialistError:
            # It was moved while it was copied; where it lies now, it is copied again.
            return self.store.put(self.library.by_digest(digest).path, digest)

    def combined(self, worn: Mixture) -> str:
        if (known := self._combined.get(worn)) is not None:
            return known
        members = [(self.library.load(ref.digest, self.base.shape), ref.scale) for ref in worn]
        self.store.root.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".combined-", dir=self.store.root))
        try:
            write_adapter(made, combined(members), base_name=self.base.name, dtype="float32")
            digest = adapter_digest(made)
            self.store.put(made, digest)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        self._combined[worn] = digest
        return digest
