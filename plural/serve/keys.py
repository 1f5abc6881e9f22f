"""API keys. A file holds their hashes and what each may do; a key itself is shown once, when it is made."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from plural.errors import SettingsError, StorageError

# What a key may do: ask models; upload files and train; change the library and what is served.
Scope = Literal["use", "train", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_PREFIX = "plural-"


class Key(BaseModel):
    """`sha256` is of the whole key. That no slow hash is needed is due to the key: 256 random bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...] = Field(min_length=1)
    note: str = ""
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))


_FILE = TypeAdapter(tuple[Key, ...])
# Who asks when no key is needed.
ANYBODY = Key(id="00000000", sha256="0" * 64, scopes=SCOPES, note="no key is needed")


def make_key(scopes: Sequence[Scope], note: str = "") -> tuple[str, Key]:
    """A new key, to be shown once, and what is kept of it."""
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, Key(id=secrets.token_hex(4), sha256=_hash(key), scopes=tuple(dict.fromkeys(scopes)), note=note)


def read_keys(path: Path) -> tuple[Key, ...]:
    """None of them if there is no file. Raises SettingsError for a damaged one, without showing what it holds."""
    try:
        return _FILE.validate_json(path.read_bytes())
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        raise SettingsError(
            f"{path} cannot be read as API keys ({type(error).__name__}).", hint="Make new ones: plural keys add."
        ) from None


def write_keys(path: Path, keys: Sequence[Key]) -> None:
    """Whole or not at all, and only its owner may read it. Raises StorageError."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(_FILE.dump_json(tuple(keys), indent=1))
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror}.", hint="Choose another file.") from error


class Keyring:
    """The keys of one server: one that is given when it starts, which may do everything, and those of a file, which is
    read again when it changes."""

    def __init__(self, given: str | None = None, path: Path | None = None) -> None:
        self._given = None if given is None else ANYBODY.model_copy(update={"sha256": _hash(given), "note": "given"})
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._keys: tuple[Key, ...] = ()
        self._needed = given is not None
        self._look()

    @property
    def needed(self) -> bool:
        """Must a key be shown? Once there was one, always: a file that loses its last key opens no door."""
        self._look()
        return self._needed

    def find(self, key: str) -> Key | None:
        """All keys are looked at, each in constant time."""
        self._look()
        hashed, found = _hash(key), None
        for one in self._all:
            if hmac.compare_digest(one.sha256, hashed):
                found = one
        return found

    @property
    def _all(self) -> tuple[Key, ...]:
        return self._keys if self._given is None else (self._given, *self._keys)

    def _look(self) -> None:
        if self._path is None:
            return
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
        except FileNotFoundError:
            stamp = (0, 0)
        if stamp != self._stamp:
            self._keys = read_keys(self._path)
            self._stamp = stamp
            self._needed = self._needed or bool(self._keys)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
