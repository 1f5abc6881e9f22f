"""What a sweep tries, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from plural.errors import SettingsError
from plural.wiring.school import read_school

ROWS = Path("tickets.jsonl")


def test_every_combination_is_a_candidate_with_the_types_of_its_settings() -> None:
    said = {"sweep": ["rank=4,8", "learning-rate=5e-4,1e-3", "activated=false,true"], "epochs": 2.0}
    (order,) = read_school([ROWS], said=said).orders
    assert [one.name for one in order.candidates] == [f"tickets--{i}" for i in range(1, 9)]
    first, last = order.candidates[0], order.candidates[-1]
    assert dict(first.varied) == {"rank": 4, "learning_rate": 5e-4, "activated": False}
    assert (last.settings.rank, last.settings.learning_rate, last.settings.activated) == (8, 1e-3, True)
    assert {one.settings.epochs for one in order.candidates} == {2.0}
    assert str(first) == "rank=4 learning_rate=0.0005 activated=false"


def test_a_school_sweeps_in_a_table_or_for_all(tmp_path: Path) -> None:
    path = tmp_path / "school.toml"
    path.write_text(
        'sweep = {rank = [2, 4]}\n[a]\ndata = "a.jsonl"\nrank = 3\n[b]\ndata = "b.jsonl"\n'
        'sweep = {targets = [["q_proj"], ["q_proj", "v_proj"]], rslora = [true, false]}\n'
    )
    a, b = read_school([path]).orders
    assert [one.settings.rank for one in a.candidates] == [2, 4]
    assert [one.settings.targets for one in b.candidates][::2] == [("q_proj",), ("q_proj", "v_proj")]
    path.write_text('[sweep]\ndata = "sweep.jsonl"\n')
    (order,) = read_school([path]).orders
    assert (order.name, order.candidates) == ("sweep", ())


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"sweep": ["ranks=4,8"]}, "no setting 'ranks'"),
        ({"sweep": ["rank"]}, "'rank' has no values"),
        ({"sweep": ["rank=4,x"]}, "rank is 'x'"),
        ({"sweep": ["rank=4"]}, "1 candidate"),
        ({"sweep": ["rank=4,4"]}, "rank=4 twice"),
        ({"sweep": ["rank=4,8", "rank=16"]}, "rank is swept twice"),
        ({"sweep": ["seed=1,2"]}, "seed cannot be swept"),
        ({"sweep": ["rank=4,8"], "rank": 16}, "rank is given and swept"),
    ],
)
def test_what_cannot_be_swept_is_said_with_its_value(said: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read_school([ROWS], said=said)
