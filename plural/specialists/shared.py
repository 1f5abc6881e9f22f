"""A library in an object store that many machines share. To whoever uses it, it is a `Library` like any other.

Cards are known as soon as a name is; the files of a version come when somebody needs them, are checked against their
hashes, and stay in a local folder whose name says what they are.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import math
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plural.errors import SpecialistError, StorageError, unknown_name
from plural.specialists.card import CARD_FILE, Card
from plural.specialists.library import KEPT, KEPT_SECONDS, Library, expect, staged_card
from plural.specialists.objects import Objects, State, Version
from plural.specialists.peft_files import write_file
from plural.specialists.specialist import Specialist, check_name

_LOG = logging.getLogger(__name__)
FRESH_S = 2.0  # for how long what was seen of the store is taken for what is there
_RACES = 20
_NOTHING = (0, State())


class SharedLibrary(Library):
    """`url` is any that fsspec knows, `root` the local folder of what came from it.

    Another process's publication is seen within `fresh` seconds. While the store cannot be reached, what was seen last
    goes on being served.
    """

    def __init__(self, url: str, root: Path, *, starter: Sequence[Path] = (), fresh: float = FRESH_S) -> None:
        super().__init__(root, starter=starter)
        self.url = url
        self._objects, self._fresh = Objects(url), fresh
        self._seen = _Seen()

    @property
    def where(self) -> str:
        return self.url

    def owns(self, name: str) -> bool:
        return self._state(check_name(name)).current is not None

    def imagined(self, specialist: Specialist) -> Library:
        other = copy.copy(self)
        other._instead = {specialist.name: specialist}
        return other

    def names(self) -> list[str]:
        mine = {name for name, (_, state) in self._known().items() if state.current is not None}
        return sorted(mine.union(super().names()))

    # ------------------------------------------------------------------------------------------------------- changing
    def publish(
        self, staged: Path, *, name: str, replace: bool, expected: str | None = None, warning: str = ""
    ) -> Specialist:
        card = staged_card(staged, name)

        def changed(state: State) -> State:
            current = _current(state)
            if current is not None and not replace:
                raise SpecialistError(
                    f"There is a specialist {name!r} in {self.url}.", hint="Replace it, or choose another name."
                )
            expect(current, expected, name)
            made = self._stored(staged, self._promoted(card, current, warning, _next(state)))
            return _standing(state, made)

        self._change(name, changed)
        return self.get(name)

    def keep(self, staged: Path, *, name: str) -> Specialist:
        card = staged_card(staged, name)

        def changed(state: State) -> State:
            made = self._stored(staged, card.model_copy(update={"version": _next(state)}))
            return _with(state, made)

        number = max(self._change(name, changed).versions)
        return self._version(name, str(number))

    def promote(self, name: str, version: int, *, expected: str | None = None, warning: str = "") -> Specialist:
        def changed(state: State) -> State:
            current = _current(state)
            expect(current, expected, name)
            if state.current == version:
                return state
            if (old := state.versions.get(version)) is None:
                self._version(name, str(version))  # says which there are
                raise self._not_own(name)
            self._distant(name, old).verify()
            card = self._promoted(old.card, current, warning, version)
            return _standing(state, old.model_copy(update={"card": card}))

        self._change(name, changed)
        return self.get(name)

    def rollback(self, name: str) -> Specialist:
        def changed(state: State) -> State:
            if state.current is None:
                raise self._not_own(name)
            card = state.versions[state.current].card
            before = card.promotion.replaced if card.promotion else None
            if before is not None:
                if before not in state.versions:
                    self._version(name, str(before))
                    raise self._not_own(name)
                self._distant(name, state.versions[before]).verify()
                return _standing(state, state.versions[before])
            if self._find(name, self._shelves[1:]) is not None:
                return State(current=None, versions=state.versions)
            raise SpecialistError(
                f"{name!r} has no earlier version: version {card.version} replaced none.",
                hint=f"plural show {name} lists its versions; plural publish {name}@VERSION promotes one.",
            )

        self._change(name, changed)
        return self.get(name)

    def amend(self, specialist: Specialist, card: Card) -> Specialist:
        name, number = specialist.name, specialist.card.version

        def changed(state: State) -> State:
            if state.current is None:
                raise self._not_own(name)
            old = state.versions.get(number)
            if old is None or old.card.digest != specialist.digest:
                raise SpecialistError(f"{self.url} has version {number} of {name!r} no more.")
            return _with(state, old.model_copy(update={"card": card}))

        return self._distant(name, self._change(name, changed).versions[number])

    def remove(self, name: str) -> None:
        def changed(state: State) -> State:
            if state.current is None:
                raise self._not_own(name)
            return State()

        self._change(name, changed)

    def _change(self, name: str, changed: Callable[[State], State]) -> State:
        """The state that `changed` makes of the newest one, when nobody else came in between."""
        check_name(name)
        for race in range(_RACES):
            number, before = self._known(fresh=0.0).get(name, _NOTHING)
            self._check_whole(name)
            now = self._objects.written(name, number) if number else None
            dated = _dated(before, now)
            after = changed(dated)
            if after == dated:
                return before
            after = _trimmed(after, now)
            if self._objects.advance(name, number + 1, after):
                self._known(fresh=0.0)
                return after
            time.sleep(0.01 * race)
        raise StorageError(f"{name!r} is changed by others all the time; nothing was published.", hint="Try again.")

    def _stored(self, staged: Path, card: Card) -> Version:
        """The files are in the store before any state names them."""
        files = [file for file in Specialist(staged, card).files() if file != CARD_FILE]
        try:
            contents = {file: (staged / file).read_bytes() for file in files}
        except OSError as error:
            raise SpecialistError(f"{error.filename} cannot be read: {error.strerror}.") from error
        return Version(card=card, files={file: self._objects.put(content) for file, content in contents.items()})

    # --------------------------------------------------------------------------------------------------------- reading
    def _known(self, *, fresh: float | None = None) -> Mapping[str, tuple[int, State]]:
        """The newest state of every name, and its number."""
        seen = self._seen
        with seen.lock:
            age = time.monotonic() - seen.at
            if seen.at and age < (self._fresh if fresh is None else fresh):
                return seen.known
            try:
                self._look_again()
            except StorageError as error:
                if not seen.at or fresh is not None:
                    raise
                _LOG.warning("%s What was seen %.0f s ago is served.", error, age)
                seen.at = time.monotonic()
            return seen.known

    def _look_again(self) -> None:
        """A name whose state is damaged is named when it is asked for; the others go on."""
        seen, known, broken = self._seen, {}, {}
        for name, number in self._objects.newest().items():
            if seen.known.get(name, _NOTHING)[0] == number:
                known[name] = seen.known[name]
                continue
            try:
                known[name] = number, self._objects.state(name, number)
            except SpecialistError as error:
                _LOG.warning("%s", error)
                broken[name] = error
        seen.known, seen.broken, seen.at = known, broken, time.monotonic()

    def _check_whole(self, name: str) -> None:
        if name in self._seen.broken:
            raise self._seen.broken[name]

    def _state(self, name: str) -> State:
        found = self._known().get(name, _NOTHING)[1]
        self._check_whole(name)
        return found

    def _look(self, name: str) -> Specialist | None:
        return self._current(name) or super()._look(name)

    def _find(self, name: str, shelves: Sequence[Path] | None = None) -> Path | None:
        """Only the starter library lies in folders."""
        return super()._find(name, self._shelves[1:] if shelves is None else shelves)

    def __contains__(self, name: object) -> bool:
        state = self._known().get(name, _NOTHING)[1] if isinstance(name, str) else State()
        return state.current is not None or super().__contains__(name)

    def _current(self, name: str) -> Specialist | None:
        state = self._state(name)
        return self._distant(name, state.versions[state.current]) if state.current is not None else None

    def _kept(self, name: str) -> list[Specialist]:
        state = self._state(name)
        return [self._distant(name, one) for number, one in state.versions.items() if number != state.current]

    def _with_digest(self, digest: str) -> Specialist | None:
        if digest in self._unnamed:
            return self._unnamed[digest]
        lent = next((one for one in self._instead.values() if one.digest == digest), None)
        if lent is not None:
            return lent
        # First as it was seen; only then is the store asked whether there is more by now.
        for fresh in (None, 0.0):
            for name, (_, state) in self._known(fresh=fresh).items():
                for one in state.versions.values():
                    if one.card.digest == digest:
                        return self._distant(name, one)
            if (starter := super()._with_digest(digest)) is not None:
                return starter
        return None

    def _not_own(self, name: str) -> SpecialistError:
        if name in self:
            return SpecialistError(f"{name!r} belongs to the starter library, which is only read.")
        return unknown_name("specialist", name, self.names())

    def _distant(self, name: str, version: Version) -> Specialist:
        return DistantSpecialist(lambda: self._folder(name, version), version.card)

    def _folder(self, name: str, version: Version) -> Path:
        """The version's files, here. Raises SpecialistError for one that is not what its hash says, by name."""
        card = version.card.to_json().encode()
        digest = version.card.digest.removeprefix("sha256:")
        folder = self.root / ".arrived" / digest / f"{version.card.version:04d}-{_mark(card)}"
        if (folder / CARD_FILE).is_file():
            return folder
        partial = self.root / f".arriving-{secrets.token_hex(4)}"
        try:
            partial.mkdir(parents=True)
            for file, sha256 in version.files.items():
                what = f"{file} of {name}@{version.card.version}"
                write_file(partial / file, self._objects.get(sha256, what))
            write_file(partial / CARD_FILE, card)
            Specialist(partial, version.card).verify()
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # another process was quicker
                partial.rename(folder)
        except OSError as error:
            raise StorageError(
                f"{name!r} could not be written to {self.root}: {error.strerror or error}.", hint="Free some space."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder


class _Seen:
    """What was seen of the store, by all views of one library."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.at = 0.0
        self.known: Mapping[str, tuple[int, State]] = {}
        self.broken: Mapping[str, SpecialistError] = {}


class DistantSpecialist(Specialist):
    """Its files come when somebody asks where they lie."""

    def __init__(self, fetch: Callable[[], Path], card: Card) -> None:
        object.__setattr__(self, "_fetch", fetch)
        object.__setattr__(self, "card", card)

    @property
    def path(self) -> Path:
        fetch: Any = object.__getattribute__(self, "_fetch")
        found: Path = fetch()
        return found


# -------------------------------------------------------------------------------------------------------------- states
def _current(state: State) -> Specialist | None:
    """What the name stands for. Nobody asks where it lies: there is no need to fetch it."""
    return None if state.current is None else Specialist(Path(), state.versions[state.current].card)


def _next(state: State) -> int:
    return 1 + max(state.versions, default=0)


def _with(state: State, version: Version) -> State:
    return State(current=state.current, versions={**state.versions, version.card.version: version})


def _standing(state: State, version: Version) -> State:
    """The name stands for `version`; what it stood for is kept."""
    return _with(State(current=version.card.version, versions=state.versions), version)


def _dated(state: State, now: float | None) -> State:
    """With the time of what the last change set aside. Clocks of those who write may differ by days, so `now` is when
    the store says that this state was made: a little early, which keeps versions for a little longer."""
    versions = {}
    for number, one in state.versions.items():
        since = None if number == state.current else one.since or now
        versions[number] = one if since == one.since else one.model_copy(update={"since": since})
    return State(current=state.current, versions=versions)


def _trimmed(state: State, now: float | None) -> State:
    """Without all but the latest versions; as a folder's library keeps them. Where no time is known, all stay."""
    since = {number: state.versions[number].since or math.inf for number in _spare(state)}
    spare = sorted(since, key=lambda number: (since[number], number), reverse=True)[KEPT:]
    gone = {number for number in spare if (now or 0.0) - since[number] > KEPT_SECONDS}
    left = {number: one for number, one in state.versions.items() if number not in gone}
    return State(current=state.current, versions=left)


def _spare(state: State) -> Iterator[int]:
    card = None if state.current is None else state.versions[state.current].card
    back = card.promotion.replaced if card and card.promotion else None
    return (number for number in state.versions if number not in (state.current, back))


def _mark(card: bytes) -> str:
    return hashlib.sha256(card).hexdigest()[:12]
