"""The folder of specialists. What is visible in it is whole; a name is only a label and never leads out of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from plural.errors import SpecialistError, StorageError, unknown_name
from plural.specialists.adapter import AdapterWeights
from plural.specialists.card import CARD_FILE, NAME_PATTERN, Card
from plural.specialists.peft_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    adapter_digest,
    read_adapter,
    read_invocation,
    write_file,
)
from plural.specialists.shape import BaseShape

_FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)
_STAGING = ".staging"
_REPLACED = ".replaced"
# Versions that were replaced, by digest: requests that were sent before finish on them.
_RETIRED = ".retired"
_RETIRED_SECONDS = 3600.0


def check_name(name: str) -> str:
    """Returns `name`. Raises SpecialistError for one that could leave the folder or that no file system keeps apart."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise SpecialistError(
            f"{name!r} cannot be a specialist's name.",
            hint="Use 1 to 64 of a-z, 0-9, '-' and '_', the first one a letter or a digit.",
        )
    return name


@dataclass(frozen=True)
class Specialist:
    """A card that was read, and where its adapter lies."""

    path: Path
    card: Card

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def digest(self) -> str:
        return self.card.digest

    def verify(self) -> None:
        """Raises SpecialistError unless the adapter on disk is the one that the card describes."""
        self._check(adapter_digest(self.path), read_invocation(self.path))

    def load(self, shape: BaseShape) -> AdapterWeights:
        """The adapter's weights. Raises SpecialistError for another base, changed files, or as `read_adapter`."""
        if self.card.base != shape.digest:
            raise SpecialistError(
                f"The specialist {self.name!r} was trained on base {self.card.base} ({self.card.base_name}); "
                f"this base is {shape.digest}.",
                hint="Open that base, or train the specialist anew on this one.",
            )
        weights = read_adapter(self.path, shape)
        self._check(weights.digest, weights.config.invocation)
        return weights

    def _check(self, actual: str, invocation: tuple[int, ...]) -> None:
        if actual != self.card.digest:
            raise SpecialistError(
                f"The adapter in {self.path} is {actual}, but its card is of {self.card.digest}.",
                hint="Its files were changed: fetch or train it again.",
            )
        said = self.card.invocation
        if invocation != said:
            raise SpecialistError(
                f"The adapter in {self.path} is invoked by {list(invocation)}, by its card {list(said)}.",
                hint="Write into the card's invocation what adapter_config.json has in alora_invocation_tokens.",
            )


class Library:
    """`root` is the folder to write to; it need not exist yet. The `starter` folders lie under it and are only read."""

    def __init__(self, root: Path, *, starter: Sequence[Path] = ()) -> None:
        self.root = root
        self._shelves = (root, *starter)

    def names(self) -> list[str]:
        """Every name, sorted. A folder without a card is no specialist."""
        found: set[str] = set()
        for shelf in (*self._shelves, self.root / _REPLACED):
            if shelf.is_dir():
                found.update(entry.name for entry in shelf.iterdir() if (entry / CARD_FILE).is_file())
        return sorted(name for name in found if re.fullmatch(NAME_PATTERN, name))

    def get(self, name: str) -> Specialist:
        """Raises SpecialistError for an unknown name (with near ones), an impossible one, and a damaged card."""
        check_name(name)
        path = self._find(name)
        if path is None:
            raise unknown_name("specialist", name, self.names())
        card = Card.read(path)
        if card.name != name:
            raise SpecialistError(
                f"The card in {path} is of {card.name!r}.", hint="Rename the folder or correct the card."
            )
        return Specialist(path, card)

    def by_digest(self, digest: str) -> Specialist:
        """The specialist whose adapter has this digest, also one that was replaced within the last hour.

        Raises SpecialistError if there is none.
        """
        for specialist in self:
            if specialist.digest == digest:
                return specialist
        retired = self._retired(digest)
        if (retired / CARD_FILE).is_file():
            return Specialist(retired, Card.read(retired))
        raise SpecialistError(
            f"No specialist in {self.root} has the adapter {digest}.", hint="It was removed or replaced."
        )

    def __iter__(self) -> Iterator[Specialist]:
        for name in self.names():
            yield self.get(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and re.fullmatch(NAME_PATTERN, name) is not None and self._find(name) is not None

    def publish(self, staged: Path, *, name: str, replace: bool) -> Specialist:
        """Copies the adapter and card in `staged` into the library as `name`; it appears whole or not at all.

        Raises SpecialistError for a bad name, a name that is taken (unless `replace`), or a card that is not of this
        adapter; StorageError if it cannot be written, and then the library is what it was.
        """
        check_name(name)
        card = Card.read(staged).model_copy(update={"name": name})
        Specialist(staged, card).verify()
        try:
            with self._writing():
                if not replace and self._is_own(name):
                    raise SpecialistError(
                        f"There is a specialist {name!r} in {self.root}.", hint="Replace it, or choose another name."
                    )
                copied = self._copy(staged, card)
                self._show(copied, name)
        except OSError as error:
            raise StorageError(
                f"{name!r} could not be written to {self.root}: {error.strerror or error}; nothing was published.",
                hint="Free some space or choose another library.",
            ) from error
        return self.get(name)

    def remove(self, name: str) -> None:
        """Removes a specialist of the writable library. Raises SpecialistError if it is not there."""
        check_name(name)
        if not self._is_own(name):
            if name in self:
                raise SpecialistError(f"{name!r} belongs to the starter library, which is only read.")
            raise unknown_name("specialist", name, self.names())
        try:
            with self._writing():
                for path in (self.root / name, self.root / _REPLACED / name, *self._versions_of(name)):
                    if path.exists():
                        # Gone at once for every reader, then deleted file by file.
                        shutil.rmtree(path.rename(self.root / f"{_STAGING}-{secrets.token_hex(4)}"))
        except OSError as error:
            raise StorageError(f"{name!r} could not be removed from {self.root}: {error.strerror or error}.") from error

    # --------------------------------------------------------------------------------------------------------- inside
    def _is_own(self, name: str) -> bool:
        return any((place / name / CARD_FILE).is_file() for place in (self.root, self.root / _REPLACED))

    def _find(self, name: str) -> Path | None:
        """Raises SpecialistError for a folder or file that is a link out of its library."""
        # A replacement that was cut off between its two renames leaves the old specialist in the second place.
        for shelf, folder in (
            (self.root, self.root / name),
            (self.root, self.root / _REPLACED / name),
            *((starter, starter / name) for starter in self._shelves[1:]),
        ):
            if not (folder / CARD_FILE).is_file():
                continue
            home = shelf.resolve()
            for path in (folder, *(folder / file for file in _FILES)):
                if not path.resolve().is_relative_to(home):
                    raise SpecialistError(
                        f"{path} is a link out of the library {shelf}; it is refused.", hint="Copy the files in."
                    )
            return folder
        return None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time; what an earlier one left half done when it was killed is cleared away."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self.root.glob(f"{_STAGING}-*"):
                shutil.rmtree(left, ignore_errors=True)
            for old in (self.root / _RETIRED).glob("*"):
                if time.time() - old.stat().st_mtime > _RETIRED_SECONDS:
                    shutil.rmtree(old, ignore_errors=True)
            yield

    def _copy(self, staged: Path, card: Card) -> Path:
        """A complete copy on the library's own file system, under a name that no reader looks at."""
        folder = self.root / f"{_STAGING}-{secrets.token_hex(4)}"
        try:
            folder.mkdir()
            for file in (WEIGHTS_FILE, CONFIG_FILE):
                write_file(folder / file, (staged / file).read_bytes())
            write_file(folder / CARD_FILE, card.to_json().encode())
            _sync_folder(folder)
            # The staged files may have changed since they were checked.
            Specialist(folder, card).verify()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def _show(self, copied: Path, name: str) -> None:
        target, aside = self.root / name, self.root / _REPLACED / name
        if target.exists():
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            target.rename(aside)
        try:
            copied.rename(target)
        except OSError:
            if aside.exists():
                aside.rename(target)
            shutil.rmtree(copied, ignore_errors=True)
            raise
        _sync_folder(self.root)
        if aside.exists():
            self._retire(aside)

    def _retire(self, folder: Path) -> None:
        """Keeps a replaced version for a while; one whose card cannot be read goes at once."""
        try:
            kept = self._retired(Card.read(folder).digest)
            kept.parent.mkdir(exist_ok=True)
            shutil.rmtree(kept, ignore_errors=True)
            folder.rename(kept)
            os.utime(kept)  # an hour from now on
        except (OSError, SpecialistError):
            shutil.rmtree(folder, ignore_errors=True)

    def _versions_of(self, name: str) -> Iterator[Path]:
        for folder in (self.root / _RETIRED).glob("*"):
            with contextlib.suppress(SpecialistError):
                if Card.read(folder).name == name:
                    yield folder

    def _retired(self, digest: str) -> Path:
        return self.root / _RETIRED / digest.removeprefix("sha256:")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
