"""The games: in fewer words without losing any that matter, and rows that are their own solutions."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

needs_java = pytest.mark.skipif(
    importlib.util.find_spec("textworld_express") is None or shutil.which("java") is None,
    reason="textworld-express or Java is not installed",
)
KITCHEN = (
    "You are in the kitchen. In one part of the room you see a stove. You also see a fridge that is closed. In another "
    "part of the room you see a counter that has 21kg of marble, and 15kg of cedar on it. There is also a box, that is "
    "empty. \nTo the North you see the cellar. "
)


def test_a_scene_in_fewer_words() -> None:
    import games

    options = ("take 21kg of marble", "take 15kg of cedar", "put 2g of oak in box", "move north")
    counter = "a counter with 21kg of marble, and 15kg of cedar"
    assert games.seen(KITCHEN, options) == f"kitchen: {counter}; a box (empty); north: cellar"
    assert "fridge (closed)" in games.seen(KITCHEN, ("open fridge",))


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (
            "The map reads:\n  The bar connects to the study and shop.\n  The shop connects to the bar.\n",
            "Map: bar: study, shop; shop: bar",
        ),
        ("Solve the following math problem: divide 22 by 11 . \nThen, pick", "Problem: divide 22 by 11"),
        (
            "Gather all.\n\nIngredients:\n  salt\n  egg\n\nDirections:\n  fry the egg\n  prepare meal\n\n",
            "Recipe: salt, egg. fry the egg, prepare meal",
        ),
    ],
)
def test_what_was_read_stays_in_few_words(told: str, kept: str) -> None:
    import games

    assert games.read(told) == kept


def test_a_choice_in_a_kitchen_is_the_same_with_other_food() -> None:
    import random
    import re

    import games

    row = {
        "prompt": "Recipe: pork chop, egg, salt. chop the pork chop, fry the pork chop, grill the egg, prepare meal\n"
        "Done: take egg; chop pork chop\n"
        "kitchen: a stove; an oven; a toaster\nYou have: an egg, a raw chopped pork chop, some salt",
        "answer": "cook pork chop in stove",
    }
    devices = {"fry": "stove", "roast": "oven", "grill": "toaster"}
    made = [games._varied(row, random.Random(seed)) for seed in range(50)]
    for prompt, answer in ((one["prompt"], one["answer"]) for one in made):
        first, second = re.match(r"Recipe: (.*?), (.*?), salt\.", prompt).groups()  # type: ignore[union-attr]
        cut, way, other = re.search(rf"(\w+) the {first}, (\w+) the {first}, (\w+) the {second}", prompt).groups()  # type: ignore[union-attr]
        assert answer == f"cook {first} in {devices[way]}"
        assert way != other
        assert f"; {cut} {first}" in prompt  # what was done is what the recipe asks for
        assert f" {'an' if second[0] in 'aeiou' else 'a'} {second}," in prompt
        assert "a stove; an oven; a toaster" in prompt
    assert len({one["answer"] for one in made}) > 40


@needs_java
@pytest.mark.parametrize("name", ["cookingworld", "twc", "mapreader", "arithmetic", "sorting"])
def test_a_solution_wins_by_choosing_among_what_is_offered(name: str) -> None:
    import games

    game = games.Game(name, "train", 3, solved=True)
    scene = game.scene()
    for action in game.solution():
        # Of all choices the games' solutions know one shortcut that is not listed: it is no row.
        assert action in scene.options or name == "cookingworld"
        assert not scene.over
        scene = game.act(action)
    assert scene.won
    assert scene.score == 1.0


@needs_java
def test_tests_are_other_seeds_and_repeat_no_training_row() -> None:
    import games

    assert not set(games.seeds("sorting", "train")) & set(games.seeds("sorting", "test"))
    rows, tests = games.train_rows("sorting", 8), games.held_out_rows("sorting", 4, trained=8)
    assert len(rows) > 20
    assert len(tests) > 10
    assert not {row["prompt"] for row in rows} & {row["prompt"] for row in tests}


def test_a_school_leaves_the_games_out_where_there_is_no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    import games

    from plural.wiring.recipe import read_recipe

    recipe = read_recipe()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert recipe.left_out == tuple(games.GAMES)
    assert {skill.name for skill in recipe.chosen()} == recipe.skills.keys() - games.GAMES.keys()
    assert [skill.name for skill in recipe.chosen(["sorting"])] == ["sorting"]
    monkeypatch.setattr(shutil, "which", lambda command: f"/bin/{command}")
    assert (recipe.left_out, len(recipe.chosen())) == ((), len(recipe.skills))
