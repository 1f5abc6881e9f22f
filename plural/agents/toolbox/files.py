"""Reading under one folder, and nowhere else.

A path is walked from the root part by part, each opened relative to the one before and never through a link: what is
checked is what is read, even while somebody changes the folder. A link is refused wherever it leads.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from langchain_core.tools import BaseTool

from plural.agents.marks import mark
from plural.agents.tools import tool
from plural.errors import SettingsError

_LISTED = 200  # entries of a folder
_FOUND = 50  # lines of a search
_LINE = 300  # characters shown of a found line
_SEARCHED = 10_000  # files of a search
_DEEPEST = 32  # folders in folders
_CHUNK = 2**20  # bytes read at once while lines are skipped


def files(root: Path | str, *, max_bytes: int = 32_768, seconds: float = 10.0) -> list[BaseTool]:
    """The tools `list_files`, `read_file` and `search_files` for what lies under `root`.

    Args:
        root: the folder. Links in it are refused.
        max_bytes: of a file that are read at once, and of a file that a search looks into times 32.
        seconds: how long a search may take.

    Raises:
        SettingsError: `root` is not a folder, or the system cannot open a file relative to a folder (Windows).
    """
    folder = Path(root)
    if os.open not in os.supports_dir_fd:
        raise SettingsError("The file tools need a system that opens files relative to folders, as Linux and macOS do.")
    if not folder.is_dir():
        raise SettingsError(f"The root of the file tools, {str(folder)!r}, is not a folder.")
    if max_bytes < 1 or seconds <= 0:
        raise SettingsError(f"max_bytes = {max_bytes} and seconds = {seconds:g} of the file tools must be more than 0.")

    @mark(idempotent=True)
    @tool
    def list_files(folder: str = ".") -> str:
        """List a folder: its files with their sizes, and its folders, which end with /.

        Args:
            folder: A path from the root, for example docs; the root itself if left out
        """
        with _opened(root_path, folder, "folder", directory=True) as handle:
            lines = sorted(_entries(handle))
        more = [f"... and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
        return "\n".join([*lines[:_LISTED], *more]) or "The folder is empty."

    @mark(idempotent=True)
    @tool
    def read_file(path: str, first_line: int = 1) -> str:
        """Read a text file, from a line on if it is long.

        Args:
            path: A path from the root, for example docs/notes.txt
            first_line: The line to begin with, 1 for the file's first
        """
        if first_line < 1:
            raise ValueError(f"first_line = {first_line} is not 1 or more")
        with _opened(root_path, path, "path") as handle:
            return _read(handle, path, first_line, max_bytes)

    @mark(idempotent=True)
    @tool
    def search_files(text: str, folder: str = ".", name: str = "*") -> str:
        """Search the text files of a folder and of the folders in it for a text, letters large or small.

        Args:
            text: What to look for, literally
            folder: A path from the root; the root itself if left out
            name: Which files, for example *.txt
        """
        if not text:
            raise ValueError("text is empty; say what to look for")
        until = time.monotonic() + seconds
        with _opened(root_path, folder, "folder", directory=True) as handle:
            return _search(handle, text.casefold(), name, 32 * max_bytes, until)

    root_path = folder.resolve()
    return [list_files, read_file, search_files]


@contextmanager
def _opened(root: Path, path: str, argument: str, *, directory: bool = False) -> Iterator[int]:
    """A file descriptor of what lies at `path` under the root: a folder, or a regular file."""
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or "\0" in path or len(parts) > _DEEPEST:
        raise ValueError(f"{argument} = {path!r} leads out of the root; give a path from the root without ..")
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            handle = _step(handle, part, path, argument)
        mode = os.fstat(handle).st_mode
        if directory and not stat.S_ISDIR(mode):
            raise ValueError(f"{argument} = {path!r} is a file, not a folder")
        if not directory and not stat.S_ISREG(mode):
            raise ValueError(f"{argument} = {path!r} is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")
        yield handle
    finally:
        os.close(handle)


def _step(handle: int, part: str, path: str, argument: str) -> int:
    """Opens one part below `handle`, which is closed. On an error it stays open."""
    try:
        below = _open_no_link(part, handle)
    except FileNotFoundError as error:
        raise ValueError(f"{argument} = {path!r}: there is no {part!r}") from error
    except OSError as error:
        why = "is a link, and links are not followed" if error.errno == errno.ELOOP else f"failed: {error.strerror}"
        raise ValueError(f"{argument} = {path!r}: {part!r} {why}") from error
    os.close(handle)
    return below


def _open_no_link(name: str, folder: int) -> int:
    """O_NONBLOCK, because opening a pipe would wait for somebody to write into it."""
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)


def _entries(handle: int) -> Iterator[str]:
    with os.scandir(handle) as entries:
        for entry in entries:
            if entry.is_symlink():
                continue
            if entry.is_dir(follow_symlinks=False):
                yield f"{entry.name}/"
            elif entry.is_file(follow_symlinks=False):
                yield f"{entry.name} ({entry.stat(follow_symlinks=False).st_size} bytes)"


def _read(handle: int, path: str, first_line: int, max_bytes: int) -> str:
    with os.fdopen(os.dup(handle), "rb") as file:
        if b"\0" in file.read(8192):
            raise ValueError(f"path = {path!r} is not a text file")
        file.seek(0)
        line = 1
        while line < first_line:
            skipped = file.readline(_CHUNK)
            if not skipped:
                raise ValueError(f"first_line = {first_line}: {path!r} ends with line {line - 1}")
            line += skipped.endswith(b"\n")
        piece = file.read(max_bytes + 1)
    if len(piece) <= max_bytes:
        return piece.decode(errors="replace")
    whole = piece.rfind(b"\n", 0, max_bytes) + 1
    shown = piece[: whole or max_bytes]
    following = first_line + (shown.count(b"\n") or 1)
    return f"{shown.decode(errors='replace')}... (goes on; first_line={following} reads on)"


def _search(handle: int, wanted: str, name: str, max_bytes: int, until: float) -> str:
    found: list[str] = []
    searched = 0
    for where, folders, names, folder in os.fwalk(".", dir_fd=handle, follow_symlinks=False):
        folders.sort()
        for each in sorted(fnmatch.filter(names, name)):
            searched += 1
            found += _lines(folder, each, str(PurePosixPath(where, each)), wanted, max_bytes)
            if len(found) > _FOUND or searched > _SEARCHED or time.monotonic() > until:
                return "\n".join([*found[:_FOUND], "... (stopped here; there is more to search)"])
        if time.monotonic() > until:
            return "\n".join([*found, "... (stopped here; there is more to search)"])
    return "\n".join(found) or "Nothing was found."


def _lines(folder: int, name: str, path: str, wanted: str, max_bytes: int) -> list[str]:
    try:
        handle = _open_no_link(name, folder)
    except OSError:  # a link, or not ours to read
        return []
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return []
        content = file.read(max_bytes)
    if b"\0" in content[:8192]:
        return []
    lines = content.decode(errors="replace").splitlines()
    return [f"{path}:{i}: {line.strip()[:_LINE]}" for i, line in enumerate(lines, 1) if wanted in line.casefold()]
