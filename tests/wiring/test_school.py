"""What is to be trained, from files and the command line, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from plural.errors import DataError, SettingsError, SpecialistError
from plural.wiring.school import read_school

SCHOOL = """
rank = 4
tokens_at_once = 512

[tickets]
data = "tickets.jsonl"
purpose = "Sorts support tickets."
targets = ["q_proj", "v_proj"]

[mood]
data = "mood.jsonl"
name = "sentiment"
rank = 16
activated = true
tools = ["next_run"]
output = {kind = "choices", source = '["good", "bad"]'}
"""


def write(folder: Path, text: str) -> Path:
    (folder / "school.toml").write_text(text)
    return folder / "school.toml"


def test_a_table_is_a_specialist_and_what_stands_above_is_of_all(tmp_path: Path) -> None:
    school = read_school([write(tmp_path, SCHOOL)], said={"epochs": 2.0, "seed": None}, replace=True)
    tickets, mood = school.orders
    assert (tickets.name, tickets.data, mood.name) == ("tickets", tmp_path / "tickets.jsonl", "sentiment")
    assert (tickets.settings.rank, mood.settings.rank) == (4, 16)
    assert (tickets.settings.epochs, mood.settings.epochs) == (2, 2)
    assert (tickets.settings.targets, mood.settings.activated) == (("q_proj", "v_proj"), True)
    assert mood.tools == ("next_run",)
    assert mood.output is not None
    assert mood.output.kind == "choices"
    assert (school.passes.tokens_at_once, school.replace) == (512, True)


def test_files_name_their_specialists_unless_names_are_given(tmp_path: Path) -> None:
    files = [Path("a.jsonl"), Path("b.jsonl"), write(tmp_path, SCHOOL)]
    assert [order.name for order in read_school(files).orders] == ["a", "b", "tickets", "sentiment"]
    assert [order.name for order in read_school(files, ["x"]).orders][:2] == ["x", "b"]
    with pytest.raises(SettingsError, match="'z' is one too many"):
        read_school(files, ["x", "y", "z"])


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    orders = read_school([write(tmp_path, SCHOOL)], said={"rank": 2}).orders
    assert {order.settings.rank for order in orders} == {2}


def test_a_contract_is_of_all_or_of_one_and_its_file_is_beside_the_school(tmp_path: Path) -> None:
    tables = """
contract = "none"
[free]
data = "a.jsonl"
[learned]
data = "b.jsonl"
contract = "auto"
[given]
data = "c.jsonl"
contract = "c.json"
[written]
data = "d.jsonl"
output = {kind = "choices", source = '["good", "bad"]'}
"""
    school = write(tmp_path, tables)
    found = {order.name: (order.contract, order.output is not None) for order in read_school([school]).orders}
    assert found == {
        "free": ("none", False),
        "learned": ("auto", False),
        "given": (str(tmp_path / "c.json"), False),
        "written": ("auto", True),
    }
    said = read_school([school], said={"contract": "other.json"}).orders
    assert {(order.contract, order.output) for order in said} == {("other.json", None)}
    assert read_school([Path("a.jsonl")]).orders[0].contract == "auto"


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ('[a]\ndata = "a.jsonl"\nlerning_rate = 1.0', SettingsError, r"\[a\] in .*'lerning_rate'.*learning_rate"),
        ('[a]\ndata = "a.jsonl"\nlearning_rate = -1.0', SettingsError, r"\[a\] in .*learning_rate is -1\.0"),
        ("[a]\nrank = 4", SettingsError, r"\[a\] in .*data is not given"),
        ('[a]\ndata = "a.jsonl"\nkind = "boss"', SettingsError, "kind is 'boss'"),
        ('[a]\ndata = "a.jsonl"\ntools = "clock"', SettingsError, "tools is 'clock'"),
        ('[a]\ndata = "a.jsonl"\noutput = {kind = "poem", source = "x"}', SettingsError, "output is .*poem"),
        ('["../a"]\ndata = "a.jsonl"', SpecialistError, r"\.\./a"),
        (
            '[a]\ndata = "a.jsonl"\ncontract = "none"\noutput = {kind = "regex", source = "x"}',
            SettingsError,
            r"\[a\] in .*contract and output",
        ),
        ("rank = 4", DataError, "no table"),
        ("[a", DataError, "cannot be read"),
    ],
)
def test_what_a_school_cannot_say_is_named(tmp_path: Path, text: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        read_school([write(tmp_path, text)])


def test_what_belongs_to_one_specialist_is_not_said_of_many() -> None:
    with pytest.raises(SettingsError, match="purpose is said of 2 specialists"):
        read_school([Path("a.jsonl"), Path("b.jsonl")], said={"purpose": "Everything."})
