"""Versions of a specialist: kept, promoted, rolled back, and whole whenever a writer is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plural.errors import SpecialistError
from plural.specialists import BaseShape, Library
from plural.specialists.library import KEPT

from .adapters import make_staged


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


@pytest.fixture
def staged(tmp_path: Path) -> Callable[[int], Path]:
    """The adapter of one seed and its card."""

    def make(seed: int) -> Path:
        folder = tmp_path / f"staged-{seed}"
        return folder if folder.exists() else make_staged(folder, seed=seed)

    return make


def numbers(library: Library, name: str = "clerk") -> list[int]:
    """The versions of a name, each of them checked, the one it stands for first."""
    every = library.versions(name)
    for one in every:
        one.verify()
    return [one.card.version for one in every]


def test_every_version_has_a_number_and_is_found_by_it(library: Library, staged: Callable[[int], Path]) -> None:
    digests = [library.publish(staged(seed), name="clerk", replace=True).digest for seed in range(3)]
    assert numbers(library) == [3, 2, 1]
    assert [library.get(f"clerk@{number}").digest for number in (1, 2, 3)] == digests
    assert library.get("clerk").card.promotion.replaced == 2
    for wrong in ("clerk@4", "clerk@", "clerk@x"):
        with pytest.raises(SpecialistError, match="1, 2, 3"):
            library.get(wrong)
    with pytest.raises(SpecialistError, match="cannot be a specialist's name"):
        library.get("../clerk@1")


def test_rollback_goes_back_along_what_was_replaced(library: Library, staged: Callable[[int], Path]) -> None:
    for seed in range(3):
        library.publish(staged(seed), name="clerk", replace=True)
    assert library.rollback("clerk").card.version == 2
    assert library.publish(staged(3), name="clerk", replace=True).card.version == 4
    # Not to version 3, which was rolled back itself.
    assert [library.rollback("clerk").card.version for _ in range(2)] == [2, 1]
    assert sorted(numbers(library)) == [1, 2, 3, 4]
    with pytest.raises(SpecialistError, match="version 1 replaced none"):
        library.rollback("clerk")
    with pytest.raises(SpecialistError, match="clerk"):
        library.rollback("clerck")


def test_rollback_of_the_first_version_gives_the_starter_library_back(
    tmp_path: Path, staged: Callable[[int], Path]
) -> None:
    starter = make_staged(tmp_path / "starter" / "clerk", seed=9)
    library = Library(tmp_path / "own", starter=[starter.parent])
    with pytest.raises(SpecialistError, match="only read"):
        library.rollback("clerk")
    own = library.publish(staged(1), name="clerk", replace=False)
    assert library.get("clerk").digest == own.digest
    assert library.rollback("clerk").path == starter
    assert library.get("clerk@1").path == starter
    assert library.by_digest(own.digest).digest == own.digest


def test_a_version_that_is_only_kept_changes_nothing_until_it_is_promoted(
    library: Library, staged: Callable[[int], Path], shape: BaseShape
) -> None:
    first = library.publish(staged(1), name="clerk", replace=False)
    kept = library.keep(staged(2), name="clerk")
    assert library.get("clerk") == first
    assert library.load(kept.digest, shape).digest == kept.digest
    assert library.imagined(kept).get("clerk") == kept
    assert library.imagined(kept).names() == ["clerk"]
    promoted = library.promote("clerk", kept.card.version, expected=first.digest, warning="was forced")
    assert (promoted.digest, promoted.card.version) == (kept.digest, 2)
    assert promoted.card.promotion.warning == "was forced"
    assert library.rollback("clerk").digest == first.digest
    new = library.keep(staged(3), name="cook")
    assert "cook" not in library
    assert library.get("cook@1") == new
    assert library.promote("cook", 1, expected="").digest == new.digest


def test_who_compared_with_another_version_does_not_replace_this_one(
    library: Library, staged: Callable[[int], Path]
) -> None:
    first = library.publish(staged(1), name="clerk", replace=False)
    second = library.publish(staged(2), name="clerk", replace=True)
    kept = library.keep(staged(3), name="clerk")
    for attempt in (
        lambda: library.promote("clerk", kept.card.version, expected=first.digest),
        lambda: library.publish(staged(3), name="clerk", replace=True, expected=first.digest),
        lambda: library.promote("clerk", kept.card.version, expected=""),
    ):
        with pytest.raises(SpecialistError, match="changed by another process"):
            attempt()
    assert library.get("clerk") == second


def test_old_versions_are_forgotten_but_not_the_one_to_go_back_to(
    library: Library, staged: Callable[[int], Path]
) -> None:
    library.publish(staged(0), name="clerk", replace=False)
    library.publish(staged(1), name="clerk", replace=True)
    for seed in range(2, KEPT + 4):
        library.keep(staged(seed), name="clerk")
    assert len(numbers(library)) == KEPT + 4  # all are younger than an hour
    for age, number in enumerate(sorted(numbers(library))):
        if number != 2:
            os.utime(library.get(f"clerk@{number}").path, (age, age))
    library.publish(staged(0), name="cook", replace=False)
    assert sorted(numbers(library)) == [1, 2, *range(5, 5 + KEPT)]
    assert library.rollback("clerk").card.version == 1


def test_a_damaged_one_can_be_replaced_and_removed(library: Library, staged: Callable[[int], Path]) -> None:
    for repair in (
        lambda: library.publish(staged(2), name="clerk", replace=True),
        lambda: library.remove("clerk"),
    ):
        library.publish(staged(1), name="clerk", replace=True)
        (library.root / "clerk" / "specialist.json").write_text("{")
        with pytest.raises(SpecialistError, match="damaged"):
            library.get("clerk")
        with pytest.raises(SpecialistError, match="There is a specialist"):
            library.publish(staged(2), name="clerk", replace=False)
        repair()
        assert numbers(library) if "clerk" in library else library.names() == []


def test_new_scores_are_written_on_the_card_of_their_version(library: Library, staged: Callable[[int], Path]) -> None:
    first = library.publish(staged(1), name="clerk", replace=False)
    library.publish(staged(2), name="clerk", replace=True)
    amended = library.amend(first, first.card.model_copy(update={"purpose": "Files more."}))
    assert library.get("clerk@1") == amended
    assert amended.card.purpose == "Files more."
    assert library.get("clerk").card.purpose == "Files papers."
    library.remove("clerk")
    with pytest.raises(SpecialistError, match="clerk"):
        library.amend(first, first.card)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.sampled_from(["publish", "keep", "promote", "rollback"]), max_size=8), data=st.data())
def test_any_changes_lead_where_they_say(
    tmp_path_factory: pytest.TempPathFactory, staged: Callable[[int], Path], changes: list[str], data: st.DataObject
) -> None:
    library = Library(tmp_path_factory.mktemp("library"))
    standing: int | None = None
    replaced: dict[int, int | None] = {}  # by every version that was promoted
    made = 0
    for change in changes:
        if change in ("publish", "keep"):
            made += 1
            folder = staged(made)
            version = (
                library.keep(folder, name="clerk")
                if change == "keep"
                else library.publish(folder, name="clerk", replace=True)
            ).card.version
            assert version == made
            if change == "publish":
                replaced[made], standing = standing, made
        elif change == "promote" and made:
            chosen = data.draw(st.integers(1, made))
            if chosen != standing:
                replaced[chosen], standing = standing, chosen
            assert library.promote("clerk", chosen).card.version == standing
        elif change == "rollback":
            if standing is None or replaced[standing] is None:
                with pytest.raises(SpecialistError):
                    library.rollback("clerk")
            else:
                standing = replaced[standing]
                assert library.rollback("clerk").card.version == standing
        assert ("clerk" in library) == (standing is not None)
        if made:
            found = numbers(library)
            assert sorted(found) == list(range(1, made + 1))
            assert standing is None or found[0] == standing


# ---------------------------------------------------------------------------------------------------------- killed
def killed_at(step: int, work: Callable[[], Any]) -> bool:
    """Does `work` in a process that kills itself before its file operation number `step`. Whether it came so far."""
    child = os.fork()
    if child == 0:
        count = 0

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return call

        for owner, names in (
            (Path, ("rename", "replace", "mkdir", "open", "unlink")),
            (os, ("fsync", "utime", "rmdir")),
        ):
            for name in names:
                setattr(owner, name, dying(getattr(owner, name)))
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


CHANGES: dict[str, tuple[Callable[[Library, Callable[[int], Path]], Any], set[int]]] = {
    "publish": (lambda library, staged: library.publish(staged(3), name="clerk", replace=True), {2, 3}),
    "promote": (lambda library, staged: library.promote("clerk", 1), {2, 1}),
    "rollback": (lambda library, staged: library.rollback("clerk"), {2, 1}),
    "remove": (lambda library, staged: library.remove("clerk"), {2, 0}),
    "keep": (lambda library, staged: library.keep(staged(3), name="clerk"), {2}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_writer_that_is_killed_at_any_moment_leaves_the_old_or_the_new_one_whole(
    tmp_path: Path, staged: Callable[[int], Path], what: str
) -> None:
    change, expected = CHANGES[what]
    for seed in (1, 2, 3):
        staged(seed)
    seen: set[int] = set()
    for step in range(1, 200):
        library = Library(tmp_path / f"library-{step}")
        for seed in (1, 2):
            library.publish(staged(seed), name="clerk", replace=True)
        killed = killed_at(step, lambda library=library: change(library, staged))
        standing = numbers(library)[0] if "clerk" in library else 0
        seen.add(standing)
        assert standing in expected
        if standing:
            # The next one goes through, and nothing is left of what was half done.
            assert library.publish(staged(3), name="clerk", replace=True).digest == library.get("clerk").digest
            assert numbers(library)[1:] == sorted(numbers(library)[1:], reverse=True)
            assert not list(library.root.glob(".staging-*"))
            assert not list(library.root.glob(".replaced/*"))
        if not killed:
            break
    else:
        pytest.fail("the change never came to its end")
    assert seen == expected


def test_two_that_publish_at_once_get_one_after_the_other(
    library: Library, staged: Callable[[int], Path], shape: BaseShape
) -> None:
    for seed in range(8):
        staged(seed)
    children = []
    for worker in range(4):
        child = os.fork()
        if child == 0:
            try:
                for seed in (2 * worker, 2 * worker + 1):
                    library.publish(staged(seed), name="clerk", replace=True)
            except BaseException:  # the parent is told by the exit status
                os._exit(1)
            os._exit(0)
        children.append(child)
    while children:  # readers see a whole one all the time
        if "clerk" in library:
            library.load(library.get("clerk").digest, shape)
        done, status = os.waitpid(-1, os.WNOHANG)
        if done:
            children.remove(done)
            assert os.waitstatus_to_exitcode(status) == 0
    assert sorted(numbers(library)) == list(range(1, 9))
    assert numbers(library)[0] == 8
