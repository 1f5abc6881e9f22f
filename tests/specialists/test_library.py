"""What is visible in a library is whole, and a name never leads out of it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from plural.errors import SpecialistError, StorageError
from plural.specialists import BaseShape, Card, Library, check_name
from plural.types import Score

from .adapters import BASE, make_staged


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


def visible(library: Library) -> dict[str, str]:
    """Every specialist that a reader sees, each of them checked."""
    for specialist in library:
        specialist.verify()
    return {specialist.name: specialist.digest for specialist in library}


def test_publish_get_load_remove(library: Library, tmp_path: Path, shape: BaseShape) -> None:
    assert library.names() == []
    published = library.publish(make_staged(tmp_path / "staged"), name="clerk", replace=False)
    assert library.names() == ["clerk"]
    assert "clerk" in library
    assert library.get("clerk") == published == library.by_digest(published.digest)
    weights = published.load(shape)
    assert weights.digest == published.digest
    assert set(weights.tensors) == {(0, "v_proj"), (1, "v_proj")}
    library.remove("clerk")
    assert "clerk" not in library
    with pytest.raises(SpecialistError, match="has the adapter"):
        library.by_digest(published.digest)


def test_the_name_published_under_is_the_cards(library: Library, tmp_path: Path) -> None:
    library.publish(make_staged(tmp_path / "staged", name="draft"), name="clerk", replace=False)
    assert library.get("clerk").card.name == "clerk"


def test_a_taken_name_needs_replace(library: Library, tmp_path: Path) -> None:
    first = library.publish(make_staged(tmp_path / "one", seed=1), name="clerk", replace=False)
    second = make_staged(tmp_path / "two", seed=2)
    with pytest.raises(SpecialistError, match="'clerk'"):
        library.publish(second, name="clerk", replace=False)
    assert visible(library) == {"clerk": first.digest}
    replaced = library.publish(second, name="clerk", replace=True)
    assert replaced.digest != first.digest
    assert visible(library) == {"clerk": replaced.digest}
    assert sorted(os.listdir(library.root)) == [".lock", ".replaced", ".versions", "clerk"]


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace", "rename", "mkdir"])
@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("replacing", [False, True])
def test_a_full_disk_publishes_nothing_and_loses_nothing(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int, replacing: bool
) -> None:
    before = {}
    if replacing:
        before = {"clerk": library.publish(make_staged(tmp_path / "one", seed=1), name="clerk", replace=False).digest}
    staged = make_staged(tmp_path / "two", seed=2)
    calls = 0
    owner: Any = os if call == "fsync" else Path
    real = getattr(owner, call)

    def limited(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return _full() if calls == after + 1 else real(*args, **kwargs)

    monkeypatch.setattr(owner, call, limited)
    failed = False
    try:
        library.publish(staged, name="clerk", replace=replacing)
    except StorageError:
        failed = True
    monkeypatch.undo()
    published = staged / "specialist.json"
    after_digest = visible(library)
    if failed:
        # The very last flush may fail when the new one is already whole in its place.
        assert after_digest in (before, {"clerk": Card.read(published.parent).digest})
        assert not list(library.root.glob(".staging-*/specialist.json")) or after_digest == before
    else:
        assert after_digest == {"clerk": Card.read(published.parent).digest}
    # And the next one goes through and clears away what was left.
    library.publish(staged, name="clerk", replace=True)
    assert not list(library.root.glob(".staging-*"))


def test_a_replacement_killed_between_its_two_renames_keeps_the_old_one(
    library: Library, tmp_path: Path, shape: BaseShape
) -> None:
    old = library.publish(make_staged(tmp_path / "one", seed=1), name="clerk", replace=False)
    (library.root / ".replaced").mkdir()
    (library.root / "clerk").rename(library.root / ".replaced" / "clerk")
    assert library.names() == ["clerk"]
    assert library.get("clerk").load(shape).digest == old.digest
    with pytest.raises(SpecialistError, match="'clerk'"):
        library.publish(make_staged(tmp_path / "two", seed=2), name="clerk", replace=False)
    new = library.publish(tmp_path / "two", name="clerk", replace=True)
    assert visible(library) == {"clerk": new.digest}
    library.remove("clerk")
    assert library.names() == []


def test_a_replaced_version_is_found_by_its_digest(library: Library, tmp_path: Path, shape: BaseShape) -> None:
    """Requests that were sent to it before still need it."""
    old = library.publish(make_staged(tmp_path / "one", seed=1), name="clerk", replace=False)
    new = library.publish(make_staged(tmp_path / "two", seed=2), name="clerk", replace=True)
    assert visible(library) == {"clerk": new.digest}
    assert library.load(old.digest, shape).digest == old.digest
    library.publish(tmp_path / "one", name="clerk", replace=True)
    library.remove("clerk")
    for digest in (old.digest, new.digest):
        with pytest.raises(SpecialistError, match="has the adapter"):
            library.load(digest, shape)


def test_half_a_copy_is_never_visible(library: Library, tmp_path: Path) -> None:
    left = make_staged(library.root / ".staging-dead")
    assert library.names() == []
    library.publish(make_staged(tmp_path / "one"), name="clerk", replace=False)
    assert not left.exists()


def test_a_card_that_is_not_of_its_adapter_is_not_published(library: Library, tmp_path: Path) -> None:
    staged = make_staged(tmp_path / "one", digest="sha256:" + "0" * 64)
    with pytest.raises(SpecialistError, match="0000"):
        library.publish(staged, name="clerk", replace=False)
    assert library.names() == []


def test_changed_files_and_other_bases_are_named(library: Library, tmp_path: Path, shape: BaseShape) -> None:
    specialist = library.publish(make_staged(tmp_path / "one"), name="clerk", replace=False)
    other = BaseShape("sha256:" + "c" * 64, shape.num_layers, shape.modules)
    with pytest.raises(SpecialistError, match=f"{BASE}.*{other.digest}"):
        specialist.load(other)
    shutil.copy(make_staged(tmp_path / "two", seed=5) / "adapter_model.safetensors", specialist.path)
    for check in (specialist.verify, lambda: specialist.load(shape)):
        with pytest.raises(SpecialistError, match="Its files were changed"):
            check()


def test_the_starter_library_lies_under_the_own_one(tmp_path: Path) -> None:
    starter = tmp_path / "starter"
    make_staged(starter / "clerk", seed=1)
    make_staged(starter / "cook", seed=2, name="cook")
    (starter / "general.txt").write_text("no specialist")
    library = Library(tmp_path / "own", starter=[starter])
    assert library.names() == ["clerk", "cook"]
    own = library.publish(make_staged(tmp_path / "mine", seed=3), name="clerk", replace=False)
    assert library.get("clerk").digest == own.digest
    with pytest.raises(SpecialistError, match="only read"):
        library.remove("cook")
    library.remove("clerk")
    assert library.get("clerk").digest != own.digest


def test_unknown_names_are_told_with_near_ones(library: Library, tmp_path: Path) -> None:
    library.publish(make_staged(tmp_path / "one"), name="toolcall", replace=False)
    for attempt in (library.get, library.remove):
        with pytest.raises(SpecialistError, match="Did you mean toolcall"):
            attempt("toolcal")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.text(max_size=80))
@example("../secret")
@example("..")
@example("")
@example("a/b")
@example("a\\b")
@example("clerk\n")
@example("Clerk")
@example("/etc/passwd")
@example(".staging-1")
@example("a" * 65)
@example("clerk@1")
@example("../secret@1")
def test_any_name_stays_inside_the_library(library: Library, tmp_path: Path, name: str) -> None:
    make_staged(tmp_path / "secret", name="secret")
    allowed = (
        all(c in "abcdefghijklmnopqrstuvwxyz0123456789-_" for c in name) and 0 < len(name) <= 64 and name[0] not in "-_"
    )
    assert name not in library
    if allowed:
        assert check_name(name) == name
        return
    for attempt in (check_name, library.get, library.remove):
        # "clerk@2" is a version, which has no name of its own.
        told = None if attempt == library.get and "@" in name else "cannot be a specialist's name"
        with pytest.raises(SpecialistError, match=told):
            attempt(name)
    with pytest.raises(SpecialistError, match="cannot be a specialist's name"):
        library.publish(tmp_path / "secret", name=name, replace=True)


@pytest.mark.parametrize("file", ["", "adapter_model.safetensors", "specialist.json"])
def test_links_out_of_the_library_are_refused(library: Library, tmp_path: Path, file: str) -> None:
    outside = make_staged(tmp_path / "outside")
    if file:
        shutil.copytree(outside, library.root / "clerk")
        (library.root / "clerk" / file).unlink()
        (library.root / "clerk" / file).symlink_to(outside / file)
    else:
        library.root.mkdir()
        (library.root / "clerk").symlink_to(outside)
    with pytest.raises(SpecialistError, match="link out of the library"):
        library.get("clerk")


def test_a_card_survives_json_and_is_strict(tmp_path: Path) -> None:
    scores = {"base": (Score("exact", 0.0, 40),), "specialist": (Score("exact", 0.5, 40, "home"),)}
    folder = make_staged(
        tmp_path / "one", scores=scores, examples=("file this",), output={"kind": "regex", "source": "[a-z]+"}
    )
    card = Card.read(folder)
    assert card.scores["specialist"][0].value == 0.5
    assert Card.model_validate_json(card.to_json()) == card
    text = (folder / "specialist.json").read_text()
    for old, new, named in (
        ('"schema_version": 1', '"schema_version": 2', "schema_version"),
        ('"tools": []', '"wings": []', "wings"),
        ('"name": "clerk"', '"name": "../clerk"', "name"),
        ("{", "", "JSON"),
    ):
        (folder / "specialist.json").write_text(text.replace(old, new, 1))
        with pytest.raises(SpecialistError, match=named):
            Card.read(folder)


def test_a_folder_and_its_card_must_agree_on_the_name(library: Library) -> None:
    make_staged(library.root / "boss", name="clerk")
    with pytest.raises(SpecialistError, match="'clerk'"):
        library.get("boss")
