"""A library's objects behind any fsspec URL: files named by their SHA-256, and each name's history.

URL/objects/ab/abcd…            a file, by the hash of what it holds; written once
URL/names/clerk/00000003.json   what `clerk` has had since its third change; made only if nobody else made it

Readers take no lock: the newest state of a name is whole, and what it names is there before it. Writers agree by
creating the next number: one of them does, and the others look again.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import fsspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plural.errors import SettingsError, SpecialistError, StorageError
from plural.specialists.card import Card, Sha256

T = TypeVar("T")
_TRIES, _FIRST_PAUSE_S = 5, 0.1
_DIGITS = 8
# Older states of a name that are left for readers who have just listed them.
_LEFT = 5


class Version(BaseModel):
    """`files` maps the names in its folder to the hashes of what they hold, the card apart, which is here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    card: Card
    files: Mapping[str, Sha256]
    # When it ceased to be what its name stands for, or was kept, by the store's clock; the next change writes it down.
    since: float | None = None


class State(BaseModel):
    """All versions of a name, and which of them it stands for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    current: int | None = None
    versions: Mapping[int, Version] = Field(default_factory=dict)


class Objects:
    """Raises SettingsError for a URL that there is no way to open."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError, TypeError) as error:
            raise SettingsError(
                f"The library {url!r} cannot be opened: {error}.",
                hint="Give a folder, or a URL that fsspec knows: s3:// needs s3fs, gs:// gcsfs.",
            ) from error

    def newest(self) -> Mapping[str, int]:
        """Of every name the number of its newest state. Raises StorageError."""
        found: dict[str, int] = {}
        for path in self._tried("listed", lambda: self._fs.find(f"{self._root}/names")):
            *_, name, file = str(path).split("/")
            number = file.removesuffix(".json")
            if len(number) == _DIGITS and number.isdigit():
                found[name] = max(int(number), found.get(name, 0))
        return found

    def state(self, name: str, number: int) -> State:
        """Raises SpecialistError for one that is no state, StorageError when it cannot be read."""
        path = self._state(name, number)
        try:
            return State.model_validate_json(self._tried("read", lambda: self._fs.cat_file(path)))
        except ValidationError as error:
            first = error.errors()[0]
            raise SpecialistError(
                f"{path} in the library {self.url} is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}.",
                hint="Remove it: the one before it counts then.",
            ) from error

    def advance(self, name: str, number: int, state: State) -> bool:
        """Makes `state` the one of this number; False when somebody else was quicker. Raises StorageError."""
        made = self._tried("written", lambda: self._create(self._state(name, number), state.model_dump_json().encode()))
        if made:
            self._forget(name, number - _LEFT)
        return made

    def written(self, name: str, number: int) -> float | None:
        """When a state was made, by the store's clock, which is one for all writers; None where the store does not say.
        Raises StorageError."""
        path = self._state(name, number)
        try:
            made: float = self._tried("read", lambda: self._modified(path))
        except NotImplementedError:
            return None
        return made

    def put(self, content: bytes) -> str:
        """The hash of what was stored. Raises StorageError."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._object(sha256)

        def write() -> None:
            # One that is there may be damaged, and who publishes again wants it whole.
            if not self._fs.exists(path) or self._fs.cat_file(path) != content:
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(path, content)

        self._tried("written", write)
        return sha256

    def get(self, sha256: str, what: str) -> bytes:
        """Raises SpecialistError for an object that is not what its name says, StorageError if it cannot be read."""
        path = self._object(sha256)
        content: bytes = self._tried("read", lambda: self._fs.cat_file(path))
        actual = hashlib.sha256(content).hexdigest()
        if actual != sha256:
            raise SpecialistError(
                f"The object {path} in the library {self.url}, {what}, has the SHA-256 {actual}.",
                hint="It is damaged or was changed; it is refused. Publish the specialist again.",
            )
        return content

    # ------------------------------------------------------------------------------------------------------- inside
    def _object(self, sha256: str) -> str:
        return f"{self._root}/objects/{sha256[:2]}/{sha256}"

    def _state(self, name: str, number: int) -> str:
        return f"{self._root}/names/{name}/{number:0{_DIGITS}}.json"

    def _modified(self, path: str) -> float:
        return float(self._fs.modified(path).timestamp())

    def _create(self, path: str, content: bytes) -> bool:
        """Whole and only if nobody else did."""
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            if "file" in self._fs.protocol:
                _link(Path(path), content)
            else:
                self._fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except NotImplementedError as error:
            raise StorageError(
                f"The library {self.url} can only be read: what is behind it has no way to write.",
                hint="Publish to the place that it is a copy of.",
            ) from error
        return True

    def _forget(self, name: str, number: int) -> None:
        """Housekeeping; who comes too late to read an old state lists again."""
        if number > 0:
            try:
                self._fs.rm_file(self._state(name, number))
            except Exception:  # noqa: BLE001 - every file system has errors of its own, and nothing depends on this
                return

    def _tried(self, what: str, act: Callable[[], T]) -> T:
        """Raises StorageError when it goes wrong several times. File systems have errors of their own."""
        for tried in range(1, _TRIES + 1):
            try:
                return act()
            except (StorageError, SpecialistError, NotImplementedError):
                raise
            except FileNotFoundError as error:
                if what == "listed":
                    return []  # type: ignore[return-value]
                raise StorageError(f"{error} is not in the library {self.url}.", hint="It was removed.") from error
            except Exception as error:
                if tried == _TRIES:
                    raise StorageError(
                        f"The library {self.url} could not be {what}: {type(error).__name__}: {error}; tried {tried} "
                        "times.",
                        hint="Is it there, and may it be used from here?",
                    ) from error
                time.sleep(_FIRST_PAUSE_S * 2 ** (tried - 1))
        raise AssertionError("unreachable")


def _link(path: Path, content: bytes) -> None:
    """A local file that appears whole, and only where none is. Raises FileExistsError."""
    partial = path.with_name(f".{secrets.token_hex(6)}.part")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
