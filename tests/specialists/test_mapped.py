"""The file of tensors that is mapped: no more is accepted of it than safetensors accepts, and it is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from plural.errors import SpecialistError
from plural.specialists.mapped import MappedTensors

TENSORS = {
    "a": np.arange(6, dtype=np.float16).reshape(2, 3),
    "b": np.arange(4, dtype=np.float32),
    "none": np.zeros((0, 3), np.float16),
    "one": np.array(3, np.float32),
}
CONTENT = save(TENSORS)
HEADER = 8 + int.from_bytes(CONTENT[:8], "little")


def read(path: Path, content: bytes) -> dict[str, Any]:
    path.with_name("new").write_bytes(content)
    path.with_name("new").replace(path)
    return MappedTensors(path).tensors()


def test_what_safetensors_writes_is_read_in_place(tmp_path: Path) -> None:
    file = MappedTensors
    (tmp_path / "file").write_bytes(CONTENT)
    mapped = file(tmp_path / "file")
    found = mapped.tensors()
    assert found.keys() == TENSORS.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, TENSORS[name])
        assert array.dtype == TENSORS[name].dtype
        assert not array.flags.owndata
        array[...] = 7
    assert (tmp_path / "file").read_bytes() == CONTENT, "what is written stays in memory"
    mapped.check()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, HEADER - 1), st.integers(0, 255)), min_size=1, max_size=2))
def test_whatever_the_header_says_no_more_is_accepted_than_safetensors_does(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(CONTENT)
    for at, byte in changes:
        content[at] = byte
    try:
        found = read(tmp_path / "file", bytes(content))
    except SpecialistError:
        return
    theirs = dict(deserialize(bytes(content)))
    assert found.keys() == theirs.keys()
    for name, array in found.items():
        assert array.tobytes() == bytes(theirs[name]["data"])
        assert list(array.shape) == theirs[name]["shape"]


@pytest.mark.parametrize(
    "offsets",
    [
        {"a": [0, 12], "b": [8, 24]},  # one over the other
        {"a": [0, 12], "b": [16, 32]},  # a gap
        {"a": [0, 12], "b": [12, 28], "c": [28, 28 + 4 * 2**40]},  # beyond the end
        {"a": [0, 12], "b": [12, 24]},  # not what the shape says
        {"a": [12, 0], "b": [12, 28]},
        {"a": [0.0, 12], "b": [12, 28]},
    ],
)
def test_tensors_that_do_not_lie_one_after_another_are_refused(tmp_path: Path, offsets: dict[str, list[Any]]) -> None:
    shapes = {"a": ("F16", [2, 3]), "b": ("F32", [4]), "c": ("F32", [2**40])}
    header = json.dumps(
        {name: {"dtype": shapes[name][0], "shape": shapes[name][1], "data_offsets": at} for name, at in offsets.items()}
    ).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(28)
    with pytest.raises(SafetensorError):
        deserialize(content)
    with pytest.raises(SpecialistError, match="damaged or cut off"):
        read(tmp_path / "file", content)


@pytest.mark.parametrize("header", [b"[1]", b"{", b'{"a": 3}', b"[" * 100_000, b""])
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(SpecialistError, match="damaged or cut off"):
        read(tmp_path / "file", len(header).to_bytes(8, "little") + header)


def test_a_file_that_is_written_to_is_noticed_and_one_that_is_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    mapped = MappedTensors(path)
    path.rename(tmp_path / "moved")
    path.write_bytes(b"something else")
    mapped.check()
    np.testing.assert_array_equal(mapped.tensors()["b"], TENSORS["b"])
    with (tmp_path / "moved").open("r+b") as file:
        file.write(CONTENT[:9])
    with pytest.raises(SpecialistError, match="was changed while it was read"):
        mapped.check()
