"""Building the starter library: every skill can be trained, and one is, from its rows to its card."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from plural.models.base import load_base
from plural.specialists import Library
from plural.train import TrainSettings
from tests.models import tiny

pytest.importorskip("hassil")
pytest.importorskip("cron_descriptor")


def test_every_skill_has_settings_that_the_trainer_takes() -> None:
    from skills import FORMS, SKILLS

    skills = [*SKILLS.values(), *(skill for forms in FORMS.values() for skill in forms.values())]
    assert len(skills) > len(SKILLS) > 10
    for skill in skills:
        assert TrainSettings.of(**skill.settings).learning_rate == skill.settings["learning_rate"]


def test_a_skill_becomes_a_specialist_with_scores(tmp_path: Path) -> None:
    from build import build
    from skills import SKILLS

    tiny.save(tmp_path / "base", max_position_embeddings=1024, tie_word_embeddings=True)
    rows = [{"prompt": f"every day at {n} o'clock", "answer": f"0 {n} * * *"} for n in range(20)]
    skill = replace(
        SKILLS["cron"], train_rows=lambda: rows[:16], test_rows=lambda: rows[16:], examples=lambda: ["every day"]
    )
    given = argparse.Namespace(max_steps=2, activated=False, form="direct", rows=2, out=tmp_path / "library")
    base = load_base(tmp_path / "base", cache_dir=tmp_path / "cache")
    asyncio.run(build(skill, base, tmp_path / "work", given))
    card = Library(tmp_path / "library").get("cron").card
    assert card.lineage is not None
    assert (card.lineage.rows, card.lineage.settings["max_steps"]) == (16, 2)
    assert {who: scores[0].n for who, scores in card.scores.items()} == {"base": 2, "specialist": 2}
