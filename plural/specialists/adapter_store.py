"""Adapters by what they are: a folder for each digest, written once and never changed.

Another process may read a folder whenever it likes (a server that loads adapters by path reads some of them again after
it has dropped them) and finds what the folder's name says.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from plural.errors import SpecialistError, StorageError
from plural.specialists.peft_files import CONFIG_FILE, WEIGHTS_FILE, adapter_digest

_PREFIX = "sha256:"


class AdapterStore:
    """`root` is made when the first adapter comes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        return self.root / digest.removeprefix(_PREFIX)

    def put(self, source: Path, digest: str) -> Path:
        """The folder of the adapter in `source`, which is copied if it is not there yet.

        Raises SpecialistError if it has another digest, or as reading does; StorageError if it cannot be written.
        """
        path = self.path(digest)
        if path.is_dir():
            os.utime(path)
            return path
        partial = self.root / f".staging-{secrets.token_hex(4)}"
        try:
            partial.mkdir(parents=True)
            for file in (CONFIG_FILE, WEIGHTS_FILE):
                shutil.copyfile(source / file, partial / file)
            found = adapter_digest(partial)  # of the copy: the source may have been replaced meanwhile
            if found != digest:
                raise SpecialistError(f"The adapter in {source} is {found}, not {digest}.", hint="It was replaced.")
            with contextlib.suppress(OSError):  # another process was quicker
                partial.rename(path)
            if not path.is_dir():
                raise StorageError(f"{path} could not be made.", hint="Is the cache's folder writable?")
        except FileNotFoundError as error:
            raise SpecialistError(f"{error.filename} is not there.", hint="It was removed or replaced.") from error
        except OSError as error:
            raise StorageError(f"{path} could not be written: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return path
