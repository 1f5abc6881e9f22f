"""Worlds: every action is a decision among those that are possible, and no model walks in a circle."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from plural.agents.worlds import Scene, aplay, asked, play
from plural.errors import SettingsError
from plural.testing import ScriptedModel

DOORS = {"hall": ("go left", "go right", "knock"), "left": ("go back",), "right": ("go back", "dig")}


@dataclass
class House:
    """The treasure lies on the right; knocking changes nothing."""

    place: str = "hall"
    done: list[str] = field(default_factory=list)

    def scene(self) -> Scene:
        over = self.done[-1:] == ["dig"]
        return Scene(
            "Find it.", f"You are in: {self.place}", () if over else DOORS[self.place], float(over), over, over
        )

    def act(self, action: str) -> Scene:
        self.done.append(action)
        self.place = {"go left": "left", "go right": "right", "go back": "hall"}.get(action, self.place)
        return self.scene()


def test_a_game_is_played_to_its_end() -> None:
    model = ScriptedModel(["go right", "dig"])
    found = play(model, House())
    assert (found.last.won, found.last.score) == (True, 1.0)
    assert [move.decision.value for move in found.moves] == ["go right", "dig"]
    assert [move.decision.by for move in found.moves] == ["logits", "logits"]
    texts = [each.messages[0].text for each in model.asked]
    assert texts == ["Find it.\nYou are in: hall", "Find it.\nDone: go right\nYou are in: right"]


async def test_what_was_done_in_a_scene_is_not_offered_again_while_there_is_another() -> None:
    model = ScriptedModel(["knock", "go left", "go back", "go right", "go back", "go left"])
    found = await aplay(model, House(), steps=6)
    assert [each.options["options"] for each in model.asked] == [
        ("go left", "go right", "knock"),
        ("go left", "go right"),
        ("go back",),
        ("go right",),
        ("go back", "dig"),
        ("go left", "go right", "knock"),  # all were taken: nothing else is left to do
    ]
    assert not found.last.over
    assert len(found.moves) == 6


def test_only_the_last_actions_are_told() -> None:
    scene = Scene("Find it.", "You are in: hall", ("knock",))
    assert asked(scene, ["one", "two", "three", "four"]) == "Find it.\nDone: two; three; four\nYou are in: hall"


def test_a_world_that_offers_nothing_is_named() -> None:
    world = House("cellar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DOORS, "cellar", ())
        with pytest.raises(SettingsError, match="offers nothing to do, and is not over: 'You are in: cellar'"):
            play(ScriptedModel([]), world)
    with pytest.raises(SettingsError, match="steps is 0"):
        play(ScriptedModel([]), House(), steps=0)
