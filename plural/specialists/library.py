"""The folder of specialists, with their versions. What is visible in it is whole; a name never leads out of it.

root/clerk/                 the version that the name stands for: a PEFT directory and its card
root/.versions/clerk/0002-… the other versions: earlier ones, and those that were kept without being promoted
root/.replaced/clerk/       the version that is being replaced, for the moment between two renames
root/.staging-…/            half a copy, which no reader looks at

Every change is a rename of a whole folder under one lock. A process that is killed at any moment leaves what was there
or what should be there; the next writer clears up behind it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from plural.errors import SpecialistError, StorageError, unknown_name
from plural.specialists.adapter import AdapterWeights
from plural.specialists.card import CARD_FILE, HELDOUT_FILE, NAME_PATTERN, SHOTS_FILE, TRAINED_FILE, Card, Promotion
from plural.specialists.peft_files import CONFIG_FILE, WEIGHTS_FILE, write_file
from plural.specialists.shape import BaseShape
from plural.specialists.specialist import Specialist, check_name

_STAGING = ".staging"
_REPLACED = ".replaced"
_VERSIONS = ".versions"
# Of the versions that a name does not stand for, the latest are kept; and every one for an hour, because requests that
# were sent to it finish on it.
KEPT = 5
KEPT_SECONDS = 3600.0
_LOOKS = 3  # a reader that comes between a writer's two renames looks again
_FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, HELDOUT_FILE, SHOTS_FILE, TRAINED_FILE)


class Library:
    """`root` is the folder to write to; it need not exist yet. The `starter` folders lie under it and are only read."""

    def __init__(
        self, root: Path, *, starter: Sequence[Path] = (), instead: Mapping[str, Specialist] | None = None
    ) -> None:
        self.root = root
        self._shelves = (root, *starter)
        self._instead: Mapping[str, Specialist] = dict(instead or {})
        self._unnamed: Mapping[str, Specialist] = {}

    def imagined(self, specialist: Specialist) -> Library:
        """To read from only: this library as it would be if the specialist's name stood for it."""
        return Library(self.root, starter=self._shelves[1:], instead={specialist.name: specialist})

    def lend(self, specialist: Specialist) -> None:
        """Lets its name stand for it in this process, whatever the folder holds, until it is taken back."""
        self._instead = {**self._instead, check_name(specialist.name): specialist}

    def take_back(self, name: str) -> None:
        """Raises SpecialistError for a name that was not lent."""
        if name not in self._instead:
            raise SpecialistError(
                f"Nothing was lent under {name!r}.", hint=f"Lent: {', '.join(self.lent) or 'nothing'}."
            )
        self._instead = {other: one for other, one in self._instead.items() if other != name}

    @contextlib.contextmanager
    def showing(self, specialist: Specialist) -> Iterator[None]:
        """Lets its adapter be found by its digest meanwhile, though it is not in the folder and has no name here."""
        self._unnamed = {**self._unnamed, specialist.digest: specialist}
        try:
            yield
        finally:
            self._unnamed = {digest: one for digest, one in self._unnamed.items() if digest != specialist.digest}

    @property
    def where(self) -> str:
        """The place that is written to, for messages."""
        return str(self.root)

    def owns(self, name: str) -> bool:
        """Is the name taken in the place that is written to?"""
        return (self.root / check_name(name)).exists()

    @property
    def lent(self) -> tuple[str, ...]:
        """The names that stand for something lent."""
        return tuple(self._instead)

    def names(self) -> list[str]:
        """Every name, sorted. A folder without a card is no specialist."""
        found = set(self._instead)
        for shelf in (*self._shelves, self.root / _REPLACED):
            if shelf.is_dir():
                found.update(entry.name for entry in shelf.iterdir() if (entry / CARD_FILE).is_file())
        return sorted(name for name in found if re.fullmatch(NAME_PATTERN, name))

    def get(self, name: str) -> Specialist:
        """The specialist that `name` stands for, or one of its versions: "clerk@2".

        Raises SpecialistError for an unknown name (with near ones), an impossible one, and a damaged card.
        """
        name, at, version = name.partition("@")
        check_name(name)
        if at:
            return self._version(name, version)
        if name in self._instead:
            return self._instead[name]
        found = next((one for _ in range(_LOOKS) if (one := self._look(name)) is not None), None)
        if found is None:
            raise unknown_name("specialist", name, self.names())
        if found.name != name:
            raise SpecialistError(
                f"The card in {found.path} is of {found.name!r}.", hint="Rename the folder or correct the card."
            )
        return found

    def versions(self, name: str) -> list[Specialist]:
        """The version that `name` stands for, then the others, the latest first.

        Raises what `get` raises, unless there are other versions: those can be gone back to.
        """
        kept = sorted(self._kept(check_name(name)), key=lambda one: one.card.version, reverse=True)
        try:
            return [self.get(name), *kept]
        except SpecialistError:
            if not kept:
                raise
            return kept

    def by_digest(self, digest: str) -> Specialist:
        """The specialist whose adapter has this digest, also a version that its name does not stand for.

        Raises SpecialistError if there is none.
        """
        found = next((one for _ in range(_LOOKS) if (one := self._with_digest(digest)) is not None), None)
        if found is None:
            raise SpecialistError(
                f"No specialist in {self.root} has the adapter {digest}.", hint="It was removed or replaced."
            )
        return found

    def load(self, digest: str, shape: BaseShape) -> AdapterWeights:
        """The weights of the adapter with this digest. Raises what `by_digest` and `Specialist.load` raise."""
        found = self.by_digest(digest)
        while True:
            try:
                return found.load(shape)
            except SpecialistError:
                before, found = found, self.by_digest(digest)
                if found == before:
                    raise
                # It was moved while it was read; where it lies now, it is read again.

    def __iter__(self) -> Iterator[Specialist]:
        for name in self.names():
            yield self.get(name)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
            return False
        return name in self._instead or any(self._find(name) is not None for _ in range(_LOOKS))

    # ------------------------------------------------------------------------------------------------------- changing
    def publish(
        self, staged: Path, *, name: str, replace: bool, expected: str | None = None, warning: str = ""
    ) -> Specialist:
        """Copies the adapter and card in `staged` into the library as `name`; it appears whole or not at all.

        `expected` is the digest that `name` must stand for until then, "" for nothing. `warning` is kept on the card.

        Raises SpecialistError for a bad name, a name that is taken (unless `replace`) or that stands for something else
        than expected, or a card that is not of this adapter; StorageError if it cannot be written, and then the library
        is what it was.
        """
        card = staged_card(staged, name)
        with self._writing(f"{name!r} could not be written to {self.root}"):
            current = self._current(name)
            if self._place(name) is not None and not replace:
                raise SpecialistError(
                    f"There is a specialist {name!r} in {self.root}.", hint="Replace it, or choose another name."
                )
            expect(current, expected, name)
            copied = self._copy(staged, self._promoted(card, current, warning, self._next_version(name)))
            try:
                self._show(copied, name)
            finally:
                shutil.rmtree(copied, ignore_errors=True)
        return self.get(name)

    def keep(self, staged: Path, *, name: str) -> Specialist:
        """Copies the adapter and card in `staged` as a version of `name`, without changing what the name stands for.

        Raises what `publish` raises, but for a name that is taken.
        """
        card = staged_card(staged, name)
        with self._writing(f"A version of {name!r} could not be written to {self.root}"):
            copied = self._copy(staged, card.model_copy(update={"version": self._next_version(name)}))
            try:
                return self._retire(copied, name)
            finally:
                shutil.rmtree(copied, ignore_errors=True)

    def promote(self, name: str, version: int, *, expected: str | None = None, warning: str = "") -> Specialist:
        """Lets `name` stand for one of the versions that are kept. Raises what `publish` and `get` raise."""
        with self._writing(f"Version {version} of {name!r} could not be promoted in {self.root}"):
            current = self._current(check_name(name))
            expect(current, expected, name)
            own = (*([current] if current else []), *self._kept(name))
            chosen = next((one for one in own if one.card.version == version), None)
            if chosen is None:
                self._version(name, str(version))  # says which there are
                raise self._not_own(name)
            if current is None or chosen.path != current.path:
                chosen.verify()
                card = self._promoted(chosen.card, current, warning, version)
                write_file(chosen.path / CARD_FILE, card.to_json().encode())
                self._show(chosen.path, name)
        return self.get(name)

    def rollback(self, name: str) -> Specialist:
        """Lets `name` stand for the version that the present one replaced, or for the starter library's.

        Raises SpecialistError if there is none, or if it is not kept any more.
        """
        with self._writing(f"{name!r} could not be rolled back in {self.root}"):
            current = self._own(name)
            before = current.card.promotion.replaced if current.card.promotion else None
            if before is not None:
                chosen = self._version(name, str(before))
                chosen.verify()
                self._show(chosen.path, name)
            elif self._find(name, self._shelves[1:]) is not None:
                self._retire(current.path, name)
            else:
                raise SpecialistError(
                    f"{name!r} has no earlier version: version {current.card.version} replaced none.",
                    hint=f"plural show {name} lists its versions; plural publish {name}@VERSION promotes one.",
                )
        return self.get(name)

    def amend(self, specialist: Specialist, card: Card) -> Specialist:
        """Writes another card for the same adapter and version, new scores for example.

        Raises SpecialistError if the version is not in the writable library (any more).
        """
        name = specialist.name
        with self._writing(f"The card of {name!r} could not be written to {self.root}"):
            found = next((one for one in (self._own(name), *self._kept(name)) if _same_version(one, specialist)), None)
            if found is None:
                raise SpecialistError(f"{self.root} has version {specialist.card.version} of {name!r} no more.")
            write_file(found.path / CARD_FILE, card.to_json().encode())
        return Specialist(found.path, card)

    def remove(self, name: str) -> None:
        """Removes a specialist of the writable library, all versions. Raises SpecialistError if it is not there."""
        check_name(name)
        with self._writing(f"{name!r} could not be removed from {self.root}"):
            place = self._place(name)
            if place is None:
                raise self._not_own(name)
            for path in (self.root / _VERSIONS / name, place):
                if path.exists():
                    # Gone at once for every reader, then deleted file by file.
                    shutil.rmtree(path.rename(self._staging()))

    # --------------------------------------------------------------------------------------------------------- reading
    def _look(self, name: str) -> Specialist | None:
        path = self._find(name)
        try:
            return Specialist(path, Card.read(path)) if path is not None else None
        except SpecialistError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None  # it was moved after it was found
            raise

    def _with_digest(self, digest: str) -> Specialist | None:
        if digest in self._unnamed:
            return self._unnamed[digest]
        for specialist in self:
            if specialist.digest == digest:
                return specialist
        # In the order in which a version that is replaced comes through them.
        places = (f"{_REPLACED}/*", f"{_VERSIONS}/*/*-{_short(digest)}")
        for folder in (folder for place in places for folder in self.root.glob(place)):
            one = _readable(folder)
            if one is not None and one.digest == digest:
                return one
        return None

    def _own(self, name: str) -> Specialist:
        """What `name` stands for in the writable library."""
        place = self._place(check_name(name))
        if place is None:
            raise self._not_own(name)
        return Specialist(place, Card.read(place))

    def _not_own(self, name: str) -> SpecialistError:
        if name in self:
            return SpecialistError(f"{name!r} belongs to the starter library, which is only read.")
        return unknown_name("specialist", name, self.names())

    def _place(self, name: str) -> Path | None:
        return self._find(name, self._shelves[:1])

    def _current(self, name: str) -> Specialist | None:
        """The same, or None: nothing can be compared with a damaged one, but it can be replaced."""
        place = self._place(name)
        return _readable(place) if place else None

    def _kept(self, name: str) -> list[Specialist]:
        found = map(_readable, (self.root / _VERSIONS / name).glob("[0-9]*-*"))
        return [one for one in found if one is not None]

    def _version(self, name: str, version: str) -> Specialist:
        every = self.versions(name)
        for one in every:
            if str(one.card.version) == version:
                return one
        known = ", ".join(str(number) for number in sorted(one.card.version for one in every))
        raise SpecialistError(f"{name!r} has no version {version!r}.", hint=f"There are: {known}.")

    def _next_version(self, name: str) -> int:
        current = self._current(name)
        return 1 + max((one.card.version for one in (*self._kept(name), *([current] if current else []))), default=0)

    def _find(self, name: str, shelves: Sequence[Path] | None = None) -> Path | None:
        """Raises SpecialistError for a folder or file that is a link out of its library."""
        places: list[tuple[Path, Path]] = []
        for shelf in self._shelves if shelves is None else shelves:
            places.append((shelf, shelf / name))
            if shelf is self.root:
                # A replacement that was cut off between its two renames leaves the old version in the second place.
                places.append((shelf, shelf / _REPLACED / name))
        for shelf, folder in places:
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

    # --------------------------------------------------------------------------------------------------------- writing
    @contextlib.contextmanager
    def _writing(self, failed: str) -> Iterator[None]:
        """One writer at a time; what an earlier one left half done when it was killed is put right.

        Raises StorageError, which begins with `failed`, in the place of an OSError.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._clear_up()
                yield
        except OSError as error:
            raise StorageError(
                f"{failed}: {error.strerror or error}; nothing was published.",
                hint="Free some space or choose another library.",
            ) from error

    def _clear_up(self) -> None:
        for left in self.root.glob(f"{_STAGING}-*"):
            shutil.rmtree(left, ignore_errors=True)
        for aside in self.root.glob(f"{_REPLACED}/*"):
            target = self.root / aside.name
            if (target / CARD_FILE).is_file():
                self._set_aside(aside, aside.name)
            else:
                aside.rename(target)
        for folder in self.root.glob(f"{_VERSIONS}/*"):
            self._forget_old(folder)

    def _forget_old(self, folder: Path) -> None:
        """All but the latest versions of one name, and the one that a rollback would go to."""
        latest = sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
        spare = [one for one in latest[KEPT:] if time.time() - one.stat().st_mtime > KEPT_SECONDS]
        if not spare:
            return
        current = self._current(folder.name)
        promotion = current.card.promotion if current else None
        for one in spare:
            if promotion is None or promotion.replaced is None or not one.name.startswith(f"{promotion.replaced:04d}-"):
                shutil.rmtree(one.rename(self._staging()), ignore_errors=True)

    def _staging(self) -> Path:
        return self.root / f"{_STAGING}-{secrets.token_hex(4)}"

    def _copy(self, staged: Path, card: Card) -> Path:
        """A complete copy on the library's own file system, under a name that no reader looks at."""
        copy = Specialist(self._staging(), card)
        try:
            copy.path.mkdir()
            for file in copy.files():
                content = card.to_json().encode() if file == CARD_FILE else (staged / file).read_bytes()
                write_file(copy.path / file, content)
            _sync_folder(copy.path)
            # The staged files may have changed since they were checked.
            copy.verify()
        except BaseException:
            shutil.rmtree(copy.path, ignore_errors=True)
            raise
        return copy.path

    def _show(self, folder: Path, name: str) -> None:
        """`name` stands for what is in `folder`, which is moved; what it stood for before is kept as a version."""
        target, aside = self.root / name, self.root / _REPLACED / name
        replacing = target.exists()
        if replacing:
            aside.parent.mkdir(exist_ok=True)
            target.rename(aside)
        try:
            folder.rename(target)
        except OSError:
            if replacing:
                aside.rename(target)
            raise
        _sync_folder(self.root)
        if replacing:
            self._set_aside(aside, name)

    def _set_aside(self, folder: Path, name: str) -> None:
        """Keeps a version that was replaced; one whose card cannot be read is of no use to anybody."""
        try:
            self._retire(folder, name)
        except SpecialistError:
            shutil.rmtree(folder, ignore_errors=True)

    def _retire(self, folder: Path, name: str) -> Specialist:
        """Moves a whole version to the others that are kept; one that is there already is replaced."""
        card = Card.read(folder)
        kept = self.root / _VERSIONS / name / f"{card.version:04d}-{_short(card.digest)}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        if kept.exists():
            shutil.rmtree(kept.rename(self._staging()))
        folder.rename(kept)
        os.utime(kept)  # how long it is kept counts from now
        return Specialist(kept, card)

    @staticmethod
    def _promoted(card: Card, current: Specialist | None, warning: str, version: int) -> Card:
        replaced = current.card.version if current else None
        promotion = Promotion(at=datetime.now(UTC), replaced=replaced, warning=warning)
        return card.model_copy(update={"version": version, "promotion": promotion})


def staged_card(staged: Path, name: str) -> Card:
    """The card of what is to be published, under its new name. Raises SpecialistError if it is not of its adapter."""
    check_name(name)
    card = Card.read(staged).model_copy(update={"name": name, "promotion": None})
    Specialist(staged, card).verify()
    return card


def _readable(folder: Path) -> Specialist | None:
    try:
        return Specialist(folder, Card.read(folder))
    except SpecialistError:
        return None


def expect(current: Specialist | None, expected: str | None, name: str) -> None:
    actual = current.digest if current else ""
    if expected is not None and actual != expected:
        raise SpecialistError(
            f"{name!r} was changed by another process in the meantime: it stands for {actual or 'nothing'}, not "
            f"{expected or 'nothing'}.",
            hint="Compare with what it stands for now: publish again.",
        )


def _same_version(one: Specialist, other: Specialist) -> bool:
    return (one.digest, one.card.version) == (other.digest, other.card.version)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:16]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
