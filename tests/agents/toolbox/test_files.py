"""Files under one root are listed, read and searched; nothing else is, however it is asked for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.tools import BaseTool

from plural.agents import toolbox
from plural.errors import SettingsError

from .calls import call


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("the secret")
    root = tmp_path / "root"
    (root / "docs" / "deep").mkdir(parents=True)
    (root / "docs" / "notes.txt").write_text("Hello\nWORLD of tools\n" + "line\n" * 5)
    (root / "docs" / "deep" / "more.md").write_text("# The world\n")
    (root / "image.bin").write_bytes(b"\x89PNG\0world")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    (root / "inner.txt").symlink_to("docs/notes.txt")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def tools(root: Path) -> Sequence[BaseTool]:
    return toolbox.files(root)


async def test_list_read_search(tools: Sequence[BaseTool]) -> None:
    assert await call(tools, "list_files") == ("docs/\nimage.bin (10 bytes)", False)
    assert await call(tools, "list_files", folder="docs") == ("deep/\nnotes.txt (46 bytes)", False)
    assert await call(tools, "list_files", folder="./docs//deep/") == ("more.md (12 bytes)", False)
    assert await call(tools, "read_file", path="docs/deep/more.md") == ("# The world\n", False)
    found, _ = await call(tools, "search_files", text="World")
    assert found == "docs/notes.txt:2: WORLD of tools\ndocs/deep/more.md:1: # The world"
    assert await call(tools, "search_files", text="world", name="*.md") == ("docs/deep/more.md:1: # The world", False)
    assert await call(tools, "search_files", text="secret") == ("Nothing was found.", False)


async def test_a_long_file_is_read_piece_by_piece(root: Path) -> None:
    lines = [f"line {i}\n" for i in range(1, 101)]
    (root / "long.txt").write_text("".join(lines))
    tools = toolbox.files(root, max_bytes=100)
    read, first = "", 1
    while True:
        piece, failed = await call(tools, "read_file", path="long.txt", first_line=first)
        assert not failed
        text, goes_on, rest = piece.partition("... (goes on; first_line=")
        read += text
        if not goes_on:
            break
        first = int(rest.split()[0])
    assert read == "".join(lines)


async def test_one_line_that_is_too_long_does_not_hide_the_next(root: Path) -> None:
    (root / "wide.txt").write_text("x" * 500 + "\nsecond\n")
    tools = toolbox.files(root, max_bytes=100)
    assert await call(tools, "read_file", path="wide.txt") == (
        "x" * 100 + "... (goes on; first_line=2 reads on)",
        False,
    )
    assert await call(tools, "read_file", path="wide.txt", first_line=2) == ("second\n", False)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("../secret.txt", "leads out of the root"),
        ("docs/../../secret.txt", "leads out of the root"),
        ("docs/..", "leads out of the root"),
        ("{outside}/secret.txt", "leads out of the root"),
        ("/etc/passwd", "leads out of the root"),
        ("//etc/passwd", "leads out of the root"),
        ("link.txt", "'link.txt' is a link"),
        ("inner.txt", "'inner.txt' is a link"),
        ("folder/secret.txt", "'folder' "),
        ("docs\0/notes.txt", "leads out of the root"),
        ("/".join(["docs"] * 99), "leads out of the root"),
        ("x" * 300, "File name too long"),
        ("pipe", "is not a regular file"),
        ("docs", "is a folder"),
        ("", "is a folder"),
        ("image.bin", "is not a text file"),
        ("docs/nothing.txt", "there is no 'nothing.txt'"),
        ("docs/notes.txt/x", "Not a directory"),
        ("~/secret.txt", "there is no '~'"),
        ("..\\secret.txt", "there is no"),
    ],
)
async def test_what_may_not_be_read_is_named(path: str, says: str, tools: Sequence[BaseTool], root: Path) -> None:
    told, failed = await call(tools, "read_file", path=path.replace("{outside}", str(root.parent)))
    assert failed
    assert "path = " in told
    assert says in told
    assert "the secret" not in told


async def test_folders_are_held_to_the_same(tools: Sequence[BaseTool]) -> None:
    for name, more in (("list_files", {}), ("search_files", {"text": "secret"})):
        for folder in ("..", "/", "folder", "docs/notes.txt"):
            told, failed = await call(tools, name, folder=folder, **more)
            assert failed, told
            assert f"folder = {folder!r}" in told


async def test_wrong_numbers_and_empty_texts_are_named(tools: Sequence[BaseTool]) -> None:
    assert "first_line = 0 is not 1 or more" in (await call(tools, "read_file", path="docs/notes.txt", first_line=0))[0]
    told, _ = await call(tools, "read_file", path="docs/notes.txt", first_line=99)
    assert "first_line = 99: 'docs/notes.txt' ends with line 7" in told
    assert "text is empty" in (await call(tools, "search_files", text=""))[0]


async def test_a_search_stops_and_says_so(root: Path) -> None:
    (root / "many.txt").write_text("needle\n" * 80)
    (root / "zlast.txt").write_text("needle\n")
    told, failed = await call(toolbox.files(root), "search_files", text="needle")
    assert not failed
    assert told.count("needle") == 50
    assert told.endswith("... (stopped here; there is more to search)")


async def test_a_folder_that_turns_into_a_link_is_not_followed(root: Path, tools: Sequence[BaseTool]) -> None:
    """Somebody swaps a folder for a link all the time; what is read is the root's or nothing."""
    (root / "swap").mkdir()
    (root / "swap" / "secret.txt").write_text("harmless")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "swap").rename(root / "aside")
            (root / "swap").symlink_to(root.parent)
            (root / "swap").unlink()
            (root / "aside").rename(root / "swap")
            time.sleep(0.001)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        told = [(await call(tools, "read_file", path="swap/secret.txt"))[0] for _ in range(100)]
    finally:
        stop.set()
        swapping.join()
    assert not any("the secret" in each for each in told)
    assert "harmless" in told


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    parts=st.lists(
        st.sampled_from(["..", ".", "", "docs", "folder", "link.txt", "secret.txt", "deep", "root"]), max_size=6
    )
)
async def test_no_path_leads_to_the_secret(parts: list[str], tools: Sequence[BaseTool]) -> None:
    for name, argument in (("read_file", "path"), ("list_files", "folder")):
        told, _ = await call(tools, name, **{argument: "/".join(parts)})
        assert "the secret" not in told
        assert "secret.txt (10 bytes)" not in told


def test_a_root_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'.*nothing', is not a folder"):
        toolbox.files(tmp_path / "nothing")
    with pytest.raises(SettingsError, match="max_bytes = 0"):
        toolbox.files(tmp_path, max_bytes=0)
