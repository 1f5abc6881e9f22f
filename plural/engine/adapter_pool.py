"""Adapters that are resident, by digest. Loaded when first needed, dropped least recently used, never while in use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from plural.errors import MachineError, PluralError, SpecialistError

PackedT = TypeVar("PackedT")


class AdapterPool(Generic[PackedT]):
    """`load` maps a digest to packed weights and may raise; at most `slots` adapters are resident."""

    def __init__(self, load: Callable[[str], PackedT], slots: int) -> None:
        self._load = load
        self._slots = slots
        self._resident: OrderedDict[str, PackedT] = OrderedDict()
        self._users: dict[str, int] = {}

    @property
    def resident(self) -> tuple[str, ...]:
        return tuple(self._resident)

    def acquire(self, digest: str) -> bool:
        """One more user of the adapter. False when all slots are in use by others."""
        if digest not in self._resident:
            if len(self._users) >= self._slots:
                return False
            packed = self._loaded(digest)
            while len(self._resident) >= self._slots:
                idle = next(other for other in self._resident if other not in self._users)
                del self._resident[idle]
            self._resident[digest] = packed
        self._resident.move_to_end(digest)
        self._users[digest] = self._users.get(digest, 0) + 1
        return True

    def release(self, digest: str) -> None:
        left = self._users[digest] - 1
        if left:
            self._users[digest] = left
        else:
            del self._users[digest]

    def __getitem__(self, digest: str) -> PackedT:
        return self._resident[digest]

    def check(self, digests: list[str]) -> None:
        """Raises MachineError when the users are not exactly `digests` (one entry a user)."""
        if sorted(digests) != sorted(d for d, count in self._users.items() for _ in range(count)):
            raise MachineError(f"Adapters are held by {self._users}, but {len(digests)} jobs use one.")

    def _loaded(self, digest: str) -> PackedT:
        try:
            return self._load(digest)
        except PluralError:
            raise
        except Exception as error:
            raise SpecialistError(f"Adapter {digest[:12]} could not be loaded: {error}.") from error
