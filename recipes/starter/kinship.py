"""What one person of a family is to another, from a story that tells who married whom and whose children are whose.

Families and half of the stories are those of `reasoning-gym` (Apache-2.0), the other half is told in words of this
file. The labels are made here from the story: reasoning-gym's own are wrong for nieces, nephews and relatives in law,
where they name the other person's side. The test has families from a far seed; `kinship_large` has larger families than
any that is trained on, `kinship_told` is told in sentences that are never trained.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from skill import apart
from sources import FAR, gym
from worked import finish

Row = dict[str, Any]
Form = Literal["direct", "steps"]

NAME = "kinship"
PURPOSE = "Tells from a story about a family what one person is to another, in one word."
INSTRUCTIONS = "Name the relation."
TRAINED = 3000
TESTED = 300
_USUAL, _LARGE, _LARGER = (4, 8), (9, 12), (13, 15)  # people in a family
# For a man and for a woman.
WORDS = {
    "parent": ("father", "mother"),
    "child": ("son", "daughter"),
    "spouse": ("husband", "wife"),
    "sibling": ("brother", "sister"),
    "grandparent": ("grandfather", "grandmother"),
    "grandchild": ("grandson", "granddaughter"),
    "parent's sibling": ("uncle", "aunt"),
    "sibling's child": ("nephew", "niece"),
    "spouse's parent": ("father-in-law", "mother-in-law"),
    "child's spouse": ("son-in-law", "daughter-in-law"),
}
# What the first is to somebody, what that one is to the second, and so what the first is to the second.
_CHAINS = (
    ("child", "parent", "sibling"),
    ("parent", "parent", "grandparent"),
    ("child", "child", "grandchild"),
    ("sibling", "parent", "parent's sibling"),
    ("child", "sibling", "sibling's child"),
    ("parent", "spouse", "spouse's parent"),
    ("spouse", "child", "child's spouse"),
)
CHOICES = tuple(word for pair in WORDS.values() for word in pair)
_QUESTIONS = (
    "What is {} to {}?", "How is {} related to {}?", "What relation is {} to {}?", "Who is {} to {}?",
    "{} is {}'s what?",
)  # fmt: skip
_QUESTION = re.compile(r"(?:What is|How is|What relation is) (\w+) (?:related )?to (\w+)\?.*")


@dataclass
class Family:
    """Who is married and who has which children."""

    couples: list[tuple[str, str]] = field(default_factory=list)
    parents: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, story: str) -> Family:
        """Of reasoning-gym's sentences."""
        family = cls()
        for first, second, children in re.findall(
            r"(\w+) is married to (\w+)\.(?: They have (?:a child|children) called ([^.]+)\.)?", story
        ):
            family.couples.append((first, second))
            for child in filter(None, re.split(r", | and ", children)):
                family.parents[child] = (first, second)
        return family

    @property
    def people(self) -> list[str]:
        return list(dict.fromkeys([*(name for couple in self.couples for name in couple), *self.parents]))

    def near(self, first: str, second: str) -> str:
        """The relation of one step, or ""."""
        if first in self.parents.get(second, ()):
            return "parent"
        if second in self.parents.get(first, ()):
            return "child"
        if (first, second) in self.couples or (second, first) in self.couples:
            return "spouse"
        if first != second and first in self.parents and self.parents[first] == self.parents.get(second):
            return "sibling"
        return ""

    def related(self, first: str, second: str) -> tuple[list[str], str]:
        """The steps and the word for what `first` is to `second`; two without a word for it have ""."""
        direct = self.near(first, second)
        if direct and direct != "sibling":
            return [], _word(direct, first)
        for one, other, whole in _CHAINS:
            for middle in self.people:
                if self.near(first, middle) == one and self.near(middle, second) == other:
                    steps = [
                        f"{first} is {_word(one, first)} of {middle}",
                        f"{middle} is {_word(other, middle)} of {second}",
                    ]
                    return steps, _word(whole, first)
        return [], ""


def _word(relation: str, person: str) -> str:
    men, women = _names()
    assert person in men or person in women  # reasoning-gym names nobody else
    return WORDS[relation][person in women]


@functools.cache
def _names() -> tuple[frozenset[str], frozenset[str]]:
    config = gym("graphs.family_relationships").FamilyRelationshipsConfig()
    return frozenset(config.male_names), frozenset(config.female_names)


# ------------------------------------------------------------------------------------------------------------- stories
_COUPLE = ("{} and {} are married.", "{} is the spouse of {}.", "{} married {}.", "{} and {} are a couple.")
_CHILD = ("{0} is the child of {1} and {2}.", "{1} and {2} are the parents of {0}.", "{0}'s parents are {1} and {2}.",
          "{1} and {2} have a child, {0}.")  # fmt: skip
_COUPLE_IN_TESTS = ("The husband and wife are called {} and {}.", "A wedding made {} and {} a pair.")
_CHILD_IN_TESTS = ("{0} was born to {1} and {2}.", "{0} grew up with the parents {1} and {2}.")


def told(family: Family, chance: random.Random, *, unseen: bool) -> str:
    """The family in sentences of this file, in any order."""
    couple, child = (_COUPLE_IN_TESTS, _CHILD_IN_TESTS) if unseen else (_COUPLE, _CHILD)
    lines = []
    for pair in family.couples:
        if pair not in family.parents.values() or chance.random() < 0.6:
            lines.append(chance.choice(couple).format(*chance.sample(pair, 2)))
    for name, parents in family.parents.items():
        lines.append(chance.choice(child).format(name, *chance.sample(parents, 2)))
    chance.shuffle(lines)
    return " ".join(lines)


def drawn(seed: int, count: int, low: int, high: int) -> Iterator[tuple[str, str, str, str]]:
    """Of each of reasoning-gym's questions: the story, its own wording of the question, and the two people."""
    module = gym("graphs.family_relationships")
    config = module.FamilyRelationshipsConfig(seed=seed, size=count, min_family_size=low, max_family_size=high)
    made = module.FamilyRelationshipsDataset(config)
    for index in range(count):
        story, _, question = made[index]["question"].partition("\n\n")
        asked = _QUESTION.fullmatch(question)
        assert asked is not None  # its three templates
        yield story, question, asked[1], asked[2]


def _row(prompt: str, family: Family, first: str, second: str, form: Form) -> Row | None:
    """None for two people who have no word for each other here: reasoning-gym never asks for them."""
    steps, answer = family.related(first, second)
    if not answer:
        return None
    return {"prompt": prompt, "answer": finish(steps, answer) if form == "steps" else answer}


def _made(seed: int, count: int, sizes: tuple[int, int], form: Form, own: float, *, unseen: bool = False) -> list[Row]:
    """`own` is the share of stories that are told here; those ask about two other people than reasoning-gym does."""
    chance = random.Random(seed)
    rows: dict[str, Row] = {}
    for story, question, first, second in drawn(seed, count, *sizes):
        family = Family.read(story)
        if chance.random() < own:
            pairs = [(a, b) for a in family.people for b in family.people if family.related(a, b)[1]]
            by_word: dict[str, list[tuple[str, str]]] = {}
            for pair in pairs:
                by_word.setdefault(family.related(*pair)[1], []).append(pair)
            first, second = chance.choice(by_word[chance.choice(sorted(by_word))])
            question = chance.choice(_QUESTIONS).format(first, second)
            story = told(family, chance, unseen=unseen)
        prompt = f"{story}\n\n{question}"
        if row := _row(prompt, family, first, second, form):
            rows.setdefault(prompt, row)
    return list(rows.values())


# ---------------------------------------------------------------------------------------------------------------- rows
def train_rows(form: Form = "direct", count: int = TRAINED) -> list[Row]:
    """Two thirds have families of reasoning-gym's usual size; uncles and aunts there are only in the larger third."""
    usual = _made(0, 2 * count // 3, _USUAL, form, 0.5)
    rows = usual + _made(1_000_000, count // 3, _LARGE, form, 0.5)
    random.Random(0).shuffle(rows)
    return rows


def held_out_rows(count: int = TESTED, trained: int = TRAINED) -> list[Row]:
    """Reasoning-gym's own stories and questions; two in three hundred are nearly those of a training row, and go."""
    return apart(_made(FAR, count, _USUAL, "direct", 0.0), train_rows(count=trained))


def large_rows(count: int = TESTED, trained: int = TRAINED) -> list[Row]:
    return apart(_made(FAR + 1_000_000, count, _LARGER, "direct", 0.0), train_rows(count=trained))


def told_rows(count: int = TESTED, trained: int = TRAINED) -> list[Row]:
    return apart(_made(FAR + 2_000_000, count, _USUAL, "direct", 1.0, unseen=True), train_rows(count=trained))
