"""A library in an object store is a library: the same to who uses it, whole to who reads it, one to who writes it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plural.errors import PluralError, SettingsError, SpecialistError, StorageError
from plural.specialists import BaseShape, Library
from plural.specialists.library import KEPT
from plural.specialists.objects import Objects
from plural.specialists.shared import SharedLibrary
from plural.wiring.settings import Settings, shelf

from .adapters import make_staged


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{secrets.token_hex(6)}" if request.param == "memory" else f"file://{tmp_path}/store"


@pytest.fixture
def opened(url: str, tmp_path: Path) -> Callable[..., SharedLibrary]:
    """The library as one more machine has it."""

    def open_one(**options: Any) -> SharedLibrary:
        return SharedLibrary(url, tmp_path / f"machine-{secrets.token_hex(4)}", **{"fresh": 0.0} | options)

    return open_one


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("staged")
    return [make_staged(home / str(seed), seed=seed) for seed in range(4)]


def test_what_one_publishes_the_others_have(
    opened: Callable[..., SharedLibrary], staged: list[Path], shape: BaseShape
) -> None:
    here, there = opened(), opened()
    published = here.publish(staged[0], name="clerk", replace=False)
    assert there.names() == ["clerk"]
    assert "clerk" in there
    assert "clerk@1" not in there
    found = there.get("clerk")
    assert found.card == published.card
    assert found.path != published.path
    found.verify()
    assert there.load(published.digest, shape).digest == published.digest
    with pytest.raises(SpecialistError, match="There is a specialist 'clerk' in"):
        there.publish(staged[1], name="clerk", replace=False)
    there.remove("clerk")
    assert list(here) == []
    with pytest.raises(SpecialistError, match="No specialist is called 'clerk'"):
        here.remove("clerk")


def test_nothing_is_fetched_before_it_is_needed(
    opened: Callable[..., SharedLibrary], staged: list[Path], shape: BaseShape
) -> None:
    opened().publish(staged[0], name="clerk", replace=False)
    there = opened()
    assert [one.card.purpose for one in there] == [there.get("clerk").card.purpose]
    assert not there.root.exists()
    there.get("clerk").load(shape)
    assert len(list(there.root.glob(".arrived/*/*"))) == 1
    again = SharedLibrary(there.url, there.root)
    remove_objects(again.url)
    again.get("clerk").load(shape)  # from the local folder


def everything(url: str) -> list[str]:
    fs, root = fsspec.core.url_to_fs(url)
    return [path for path in fs.find(root) if "/objects/" in path]


def remove_objects(url: str) -> None:
    fs, _ = fsspec.core.url_to_fs(url)
    for path in everything(url):
        fs.rm_file(path)


def test_an_object_with_a_wrong_hash_is_refused_by_name(
    opened: Callable[..., SharedLibrary], staged: list[Path], url: str, shape: BaseShape
) -> None:
    here, there = opened(), opened()
    here.publish(staged[0], name="clerk", replace=False)
    here.publish(staged[1], name="judge", replace=False)
    fs, _ = fsspec.core.url_to_fs(url)
    digest = here.get("clerk").digest
    weights = (here.get("clerk").path / "adapter_model.safetensors").read_bytes()
    spoiled = next(path for path in everything(url) if fs.cat_file(path) == weights)
    fs.pipe_file(spoiled, weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(
        SpecialistError, match=rf"{spoiled} in the library .*, adapter_model.safetensors of clerk@1, has"
    ):
        there.load(digest, shape)
    assert list(there.root.glob(".arrived/*/*")) == []
    there.get("judge").load(shape)
    # Publishing it again puts it right.
    here.publish(staged[0], name="clerk", replace=True)
    there.load(digest, shape)


def test_a_lost_object_is_named(opened: Callable[..., SharedLibrary], staged: list[Path], url: str) -> None:
    opened().publish(staged[0], name="clerk", replace=False)
    remove_objects(url)
    with pytest.raises(StorageError, match=r"objects/.. ?.*is not in the library"):
        opened().get("clerk").verify()


def test_a_damaged_state_is_named_and_the_others_go_on(
    opened: Callable[..., SharedLibrary], staged: list[Path], url: str
) -> None:
    here = opened()
    for name, path in zip(("clerk", "judge"), staged, strict=False):
        here.publish(path, name=name, replace=False)
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root}/names/clerk/00000001.json", b'{"current": 7, "versions": {"7": {}}}')
    there = opened()
    assert there.names() == ["judge"]
    for touch in (lambda: there.get("clerk"), lambda: there.publish(staged[0], name="clerk", replace=True)):
        with pytest.raises(SpecialistError, match=r"names/clerk/00000001.json in the library .* is damaged"):
            touch()


def test_of_many_writers_each_wins_once(opened: Callable[..., SharedLibrary], staged: list[Path]) -> None:
    """Nobody's version is lost, and nobody's number is given twice."""
    machines = [opened() for _ in range(4)]

    def write(number: int) -> int:
        return machines[number % 4].keep(staged[number % 4], name="clerk").card.version

    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(write, range(8)))
    assert sorted(versions) == list(range(1, 9))
    assert {one.card.version for one in opened().versions("clerk")} == set(range(1, 9))


def test_who_compared_with_another_version_publishes_nothing(
    opened: Callable[..., SharedLibrary], staged: list[Path]
) -> None:
    here, there = opened(), opened(fresh=60.0)
    first = here.publish(staged[0], name="clerk", replace=False)
    assert there.get("clerk").digest == first.digest
    second = here.publish(staged[1], name="clerk", replace=True)
    with pytest.raises(SpecialistError, match="was changed by another process in the meantime"):
        there.publish(staged[2], name="clerk", replace=True, expected=first.digest)
    assert there.get("clerk").digest == second.digest


def test_a_store_that_goes_away_serves_what_was_seen(
    opened: Callable[..., SharedLibrary], staged: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened()
    here.publish(staged[0], name="clerk", replace=False)

    def away(*_args: Any, **_options: Any) -> Any:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("plural.specialists.objects._FIRST_PAUSE_S", 0.001)
    for name in ("find", "cat_file", "pipe_file", "exists"):
        monkeypatch.setattr(type(here._objects._fs), name, away)
    assert here.names() == ["clerk"]
    with pytest.raises(StorageError, match=r"could not be listed: ConnectionError: no route to host; tried 5 times"):
        here.publish(staged[1], name="clerk", replace=True)
    with pytest.raises(StorageError, match="could not be listed"):
        opened().names()


def test_a_store_that_cannot_be_written(
    opened: Callable[..., SharedLibrary], staged: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened()

    def refuse(*_args: Any, **_options: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(here._objects, "put", lambda content: "0" * 64)
    monkeypatch.setattr("plural.specialists.objects._link", refuse)
    monkeypatch.setattr(type(here._objects._fs), "pipe_file", refuse)
    with pytest.raises(StorageError, match="can only be read"):
        here.publish(staged[0], name="clerk", replace=False)


def test_there_are_urls_that_nobody_can_open(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="The library 'nonsense://x' cannot be opened"):
        SharedLibrary("nonsense://x", tmp_path)


def test_the_setting_says_which_library(tmp_path: Path) -> None:
    for said, url in ((f"file://{tmp_path}/s", f"file://{tmp_path}/s"), (Path("memory://x/y"), "memory://x/y"),
                       (Path(f"file://{tmp_path}/s"), f"file://{tmp_path}/s")):  # fmt: skip
        library = shelf(Settings(library=said, cache=tmp_path, starter=False))
        assert isinstance(library, SharedLibrary)
        assert library.url == library.where == url
    assert type(shelf(Settings(library=tmp_path, cache=tmp_path))) is Library


# ---------------------------------------------------------------------------------------------- as a folder's library
NAMES = st.sampled_from(["clerk", "judge"])
STEPS = st.one_of(
    st.tuples(st.just("publish"), NAMES, st.integers(0, 3), st.booleans()),
    st.tuples(st.just("keep"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("promote"), NAMES, st.integers(1, 5)),
    st.tuples(st.just("rollback"), NAMES),
    st.tuples(st.just("remove"), NAMES),
    st.tuples(st.just("amend"), NAMES),
)


def do(library: Library, staged: list[Path], step: tuple[Any, ...]) -> str:
    """What came of it."""
    what, name, *more = step
    try:
        match what:
            case "publish":
                return str(library.publish(staged[more[0]], name=name, replace=more[1]).card.version)
            case "keep":
                return str(library.keep(staged[more[0]], name=name).card.version)
            case "promote":
                return str(library.promote(name, more[0]).card.version)
            case "rollback":
                return str(library.rollback(name).card.version)
            case "amend":
                one = library.get(name)
                return library.amend(one, one.card.model_copy(update={"purpose": "More."})).card.purpose
            case _:
                library.remove(name)
                return ""
    except PluralError as error:
        return type(error).__name__


def looks(library: Library) -> Any:
    return {
        name: [(one.card.version, one.digest, one.card.purpose) for one in library.versions(name)]
        for name in library.names()
    }


@given(steps=st.lists(STEPS, max_size=12))
@settings(max_examples=15)
def test_it_does_what_a_folder_does(
    steps: list[tuple[Any, ...]], staged: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("same")
    starter = home / "starter"
    Library(starter).publish(staged[3], name="judge", replace=False)
    folder = Library(home / "folder", starter=[starter])
    url = f"memory://{secrets.token_hex(6)}"
    machines = [SharedLibrary(url, home / name, starter=[starter], fresh=0.0) for name in "ab"]
    for number, step in enumerate(steps):
        assert do(machines[number % 2], staged, step) == do(folder, staged, step), step
        assert looks(machines[0]) == looks(machines[1]) == looks(folder)


# --------------------------------------------------------------------------------------------------------------- clocks
def two_hours_pass(url: str, name: str) -> None:
    """By the store's clock, which says when the newest state of the name was made."""
    objects = Objects(url)
    path = objects._state(name, objects.newest()[name])
    if "file" in objects._fs.protocol:
        later = Path(path).stat().st_mtime + 7200
        os.utime(path, (later, later))
    else:
        objects._fs.store[path].modified += timedelta(hours=2)


@pytest.mark.parametrize("skew", [-86_400.0, 86_400.0], ids=["a day behind", "a day ahead"])
def test_a_wrong_clock_drops_no_version_and_keeps_none(
    url: str, opened: Callable[..., SharedLibrary], staged: list[Path], skew: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two writers has it; when a version may go is said by the store's clock."""
    right, wrong = opened(), opened()
    real = time.time

    def publish(number: int) -> None:
        with monkeypatch.context() as patch:
            if number % 2:
                patch.setattr(time, "time", lambda: real() + skew)
            (wrong if number % 2 else right).publish(staged[number % 4], name="clerk", replace=True)

    def kept() -> list[int]:
        return sorted(one.card.version for one in right.versions("clerk"))

    newest = KEPT + 4
    for number in range(newest):
        publish(number)
    assert kept() == list(range(1, newest + 1)), "all are younger than an hour"
    two_hours_pass(url, "clerk")
    publish(newest)
    assert kept() == list(range(newest - KEPT, newest + 2)), "the current one, the one before it, and five"
