"""Games of TextWorldExpress: which of the valid actions comes next, learned from the games' own solutions.

The package (textworld-express, Apache-2.0) is a Java program and needs a Java of 8 or newer. Its games have a thousand
seeds each for training, development and test. Rows are the solutions of training seeds, in the form in which
`plural.agents.worlds` asks; a test asks for the next action of a solution of a development seed, and what counts, games
won, is measured by `benchmarks/textworld.py` on test seeds.

What a game tells is shortened: stock phrases are left out, and so are things that no action is about. What was read (a
map, a cookbook, a problem) stays in view. Actions that would only tell what is told anyway are not offered.
"""

from __future__ import annotations

import functools
import json
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from skill import APACHE, SETTINGS, Skill, apart, some

from plural.agents.worlds import Scene, asked
from plural.errors import SettingsError

Row = dict[str, Any]

# Of each game, how large it is.
GAMES = {
    "cookingworld": "numLocations=1,numIngredients=2,numDistractorItems=2,includeDoors=0,limitInventorySize=0",
    "twc": "numLocations=1,numItemsToPutAway=2,includeDoors=0,limitInventorySize=0",
    "mapreader": "numLocations=6,maxDistanceApart=3,maxDistractorItemsPerLocation=0,includeDoors=0",
    "arithmetic": "",
    "sorting": "",
}
PURPOSES = {
    "cookingworld": "Plays a kitchen game: gathers what the cookbook asks for, prepares it, and eats the meal.",
    "twc": "Plays a tidying game: takes the things that lie about and puts each where it belongs.",
    "mapreader": "Plays a map game: finds the coin with a map and brings it to the box.",
    "arithmetic": "Plays a sum game: puts the item whose quantity solves the problem in the box.",
    "sorting": "Plays a sorting game: puts things in the box from the smallest quantity to the largest.",
}
INSTRUCTIONS = "Choose the next action."
_TOLD = re.compile(r"(inventory|look around|task|examine .*)")
# Choices that are learned at once: of those three in four are left out of training.
_EASY = re.compile(r"put .* in box|(take|read) (math problem|cookbook|map)|prepare meal|eat meal")
_EASY_IN = {"cookingworld": re.compile(r"(open|close) .*|take knife")}
# Seeds to train on. In all 335,000 different tokens of prompts, 15 GB if all are kept while they are learned.
TRAINED = {"cookingworld": 250, "twc": 300, "mapreader": 200, "arithmetic": 500, "sorting": 200}
STEPS = {"cookingworld": 300}  # of training; of the others 200
TESTED = 60  # seeds


# ------------------------------------------------------------------------------------------------------------ the game
@functools.cache
def _machine() -> Any:
    """The one Java process of all games."""
    if shutil.which("java") is None:
        raise SettingsError(
            "The games of TextWorldExpress need Java, and there is no command java.",
            hint="Install one (apt install default-jre-headless), or name the skills that you want.",
        )
    from textworld_express import TextWorldExpressEnv

    return TextWorldExpressEnv()


@dataclass
class Game:
    """One game of a seed, as a `plural.agents.worlds.World`. `fold` is train, dev or test."""

    name: str
    fold: str
    seed: int
    solved: bool = False  # whether it knows its own solution, which takes longer

    def __post_init__(self) -> None:
        self._server = _machine()._gateway.jvm.textworldexpress.runtime.PythonInterface()
        if wrong := self._server.load(self.name, GAMES[self.name]):
            raise ValueError(f"{self.name} does not start: {wrong}")
        self._read = ""
        self._told = json.loads(self._server.generateNewGameJSON(self.seed, self.fold, self.solved))

    def scene(self) -> Scene:
        options = tuple(sorted({one for one in self._told["validActions"] if not _TOLD.fullmatch(one)}))
        task = shortened(str(self._server.getTaskDescription()))
        over = bool(self._told["tasksuccess"] or self._told["taskfailure"])
        now = seen(self._told["look"], options)
        if held := _held(self._told["inventory"]):
            now += f"\nYou have: {held}"
        about = f"{task}\n{self._read}" if self._read else task
        return Scene(about, now, options, self._told["score"], bool(self._told["tasksuccess"]), over)

    def act(self, action: str) -> Scene:
        self._told = json.loads(self._server.stepJSON(action))
        if action.startswith("read "):
            self._read = read(self._told["observation"])
        return self.scene()

    def solution(self) -> list[str]:
        return [action for action in self._server.getGoldActionSequence() if not _TOLD.fullmatch(action)]


def seeds(name: str, fold: str) -> list[int]:
    server = Game(name, "train", 0)._server
    return list({"train": server.getSeedsTrain, "dev": server.getSeedsDev, "test": server.getSeedsTest}[fold]())


# -------------------------------------------------------------------------------------------------- in fewer words
_STOCK = re.compile(
    r"(In one part of the room you see|In another part of the room you see|There is also|You also see) "
)
_PLACE = re.compile(r"^You are in (?:the )?([^.]*)\. *")
_WAY = re.compile(r"To the (North|South|East|West) you see the ([^.]*)\.")
_WORD = re.compile(r"[a-z0-9]+")
_SMALL = frozenset({"a", "an", "the", "and", "of", "in", "on", "some", "that", "is", "has", "it", "with", "nothing"})


def seen(look: str, options: tuple[str, ...]) -> str:
    """What there is, as far as an action is about it."""
    text = " ".join(look.split())
    place = _PLACE.match(text)
    named = {word for option in options for word in _WORD.findall(option.lower())} - _SMALL
    kept = []
    for sentence in _PLACE.sub("", text).rstrip(". ").split(". "):
        plain = _STOCK.sub("", sentence)
        if way := _WAY.match(f"{plain}."):
            kept.append(f"{way[1].lower()}: {way[2]}")
        elif named & set(_WORD.findall(plain.lower())):
            kept.append(shortened(plain))
    return f"{place[1] if place else 'Here'}: {'; '.join(kept)}"


def shortened(text: str) -> str:
    for long, short in (
        (r",? that (?:has nothing on it|is empty)", " (empty)"),
        (r" that is (closed|open)\b", r" (\1)"),
        (r" that has (.*) on it", r" with \1"),
        (r", that contains ", " with "),
        (r"^An? ", ""),
        (r"You are hungry! Let's cook a delicious meal\. ", ""),
        (r"Your (?:first )?task is to ", ""),
        (r" A map is provided, that you may find helpful\.", ""),
        (r"  +", " "),
    ):
        text = re.sub(long, short, text)
    return text.strip()


def read(told: str) -> str:
    """What a map, a cookbook or a problem says."""
    if "map reads" in told:
        rooms = re.findall(r"The (.+?) connects to the (.+?)\.", " ".join(told.partition("reads:")[2].split()))
        return "Map: " + "; ".join(f"{room}: {others.replace(' and ', ', ')}" for room, others in rooms)
    if problem := re.search(r"math problem: (.*?) *\.", told):
        return f"Problem: {problem[1]}"
    _, _, recipe = told.partition("Ingredients:")
    needed, _, steps = recipe.partition("Directions:")
    return f"Recipe: {_listed(needed)}. {_listed(steps)}"


def _listed(lines: str) -> str:
    return ", ".join(line.strip() for line in lines.splitlines() if line.strip())


def _held(inventory: str) -> str:
    held = _listed(inventory.partition("Inventory:")[2])
    return "" if held.startswith("Your inventory is") else held


# ------------------------------------------------------------------------------------------------- other kitchens
# What is cooked in training seeds, and other food. With the first alone no recipe is read: wings are always grilled.
_COOKED = (
    "red apple", "green apple", "yellow apple", "red onion", "white onion", "yellow onion", "orange bell pepper",
    "yellow bell pepper", "red bell pepper", "green bell pepper", "red hot pepper", "green hot pepper", "chicken leg",
    "chicken wing", "chicken breast", "pork chop", "red potato", "purple potato", "yellow potato", "banana", "carrot",
    "tomato", "block of cheese", "egg", "white tuna", "red tuna", "lettuce",
)  # fmt: skip
_OTHERS = (
    "turnip", "leek", "fennel bulb", "salmon fillet", "beef steak", "lamb chop", "sweet potato", "zucchini", "pear",
    "peach", "mango", "cauliflower", "white cabbage", "brown mushroom", "black radish", "turkey leg", "duck breast",
    "blue plum", "pink grapefruit", "orange squash", "purple eggplant", "red beet", "brown sausage", "trout", "pumpkin",
)  # fmt: skip
_HEATED = (("fry", "fried", "in stove"), ("roast", "roasted", "in oven"), ("grill", "grilled", "in toaster"))
_CUT = (("slice", "sliced"), ("dice", "diced"), ("chop", "chopped"))
_WORDS = [word for ways in (_HEATED, _CUT) for way in ways for word in way]
_SAID = re.compile(rf"\b(an? )?({'|'.join(sorted(_COOKED, key=len, reverse=True))})\b|\b({'|'.join(_WORDS)})\b")


def _varied(row: Row, chance: random.Random) -> Row:
    """The same choice with other food, cut and heated in another way."""
    food = dict(zip(_COOKED, chance.sample(_COOKED + _OTHERS, len(_COOKED)), strict=True))
    words: dict[str, str] = {}
    for ways in (_HEATED, _CUT):
        for way, instead in zip(ways, chance.sample(ways, len(ways)), strict=True):
            words.update(zip(way, instead, strict=True))

    def other(found: re.Match[str]) -> str:
        if found[3]:
            return words[found[3]]
        name = food[found[2]]
        return name if not found[1] else f"an {name}" if name[0] in "aeiou" else f"a {name}"

    return {key: _SAID.sub(other, row[key]) for key in ("prompt", "answer")}


# ------------------------------------------------------------------------------------------------------------- rows
def _rows(name: str, fold: str, count: int) -> Iterator[Row]:
    """The choices of the solutions of `count` seeds."""
    for seed in seeds(name, fold)[:count]:
        game = Game(name, fold, seed, solved=True)
        scene, done = game.scene(), list[str]()
        for action in game.solution():
            if action in scene.options:
                yield {"prompt": asked(scene, done), "answer": action}
            scene = game.act(action)
            done.append(action)


@functools.cache
def _train_rows(name: str, count: int) -> list[Row]:
    chance = random.Random(0)
    rows = list({row["prompt"]: row for row in _rows(name, "train", count)}.values())
    easy = (_EASY, _EASY_IN.get(name, _EASY))
    rows = [row for row in rows if not any(one.fullmatch(row["answer"]) for one in easy) or chance.random() < 0.25]
    if name == "cookingworld":
        rows = [row if chance.random() < 1 / 3 else _varied(row, chance) for row in rows]
    chance.shuffle(rows)
    return rows


def train_rows(name: str, count: int | None = None) -> list[Row]:
    """Solutions of training seeds, shuffled; of prompts that are alike one is kept."""
    return _train_rows(name, count or TRAINED[name])


def held_out_rows(name: str, count: int = TESTED, trained: int | None = None) -> list[Row]:
    """The choices of solutions of development seeds that repeat nothing that is trained on."""
    rows = list({row["prompt"]: row for row in _rows(name, "dev", count)}.values())
    return apart(rows, train_rows(name, trained))


def _skill(name: str) -> Skill:
    return Skill(
        name=name,
        purpose=PURPOSES[name],
        instructions=INSTRUCTIONS,
        asked_of_base="Choose the next action that brings you nearer to the goal. Answer only with the action.",
        checker="exact",
        train_rows=functools.partial(train_rows, name),
        test_rows=functools.partial(held_out_rows, name),
        examples=lambda: some(train_rows(name)),
        settings={**SETTINGS, "rank": 8, "activated": True, "batch_rows": 16, "max_steps": STEPS.get(name, 200)},
        licence=APACHE,
        max_tokens=24,
        needs="java",
    )


SKILLS = {name: _skill(name) for name in GAMES}
