"""Spoken commands for a smart home, with the intent and slots that Home Assistant would understand.

Sentences are drawn from the English templates of `home-assistant-intents` (Apache-2.0) and from a few everyday
templates written here; each sentence's label is what its own template says. Test sentences come only from templates
that no training sentence was drawn from, and partly from rooms, devices and items that were never seen.
"""

from __future__ import annotations

import functools
import json
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hassil.expression import (
    Alternative,
    Expression,
    Group,
    ListReference,
    Permutation,
    RuleReference,
    Sentence,
    TextChunk,
)
from hassil.parse_expression import parse_sentence
from home_assistant_intents import get_intents
from home_words import DEVICES, EVERYDAY, LIKELY, WORDS
from skill import apart

Row = dict[str, Any]
Slots = dict[str, Any]

NAME = "home"
PURPOSE = "Turns a spoken smart-home command into Home Assistant's intent and slots, as JSON."
INSTRUCTIONS = "Home command to JSON."
# Talk about the assistant itself, which is no command.
_LEFT_OUT = {"HassRespond", "HassNevermind"}
_SLOT_ORDER = (
    "domain", "device_class", "name", "area", "floor", "state", "item", "message", "search_query", "media_class",
    "brightness", "color", "temperature", "fan_mode", "percentage", "position", "volume_level", "volume_step",
    "hours", "minutes", "seconds", "start_hours", "start_minutes", "start_seconds", "conversation_command",
)  # fmt: skip


@dataclass(frozen=True)
class Template:
    intent: str
    block: str
    text: str
    expression: Expression
    slots: Mapping[str, Any]
    domains: tuple[str, ...]

    @property
    def held_out(self) -> bool:
        """About one in six, by a hash of the template's text, so that it never depends on a seed."""
        return self.block != "everyday" and zlib.crc32(f"{self.intent} {self.text}".encode()) % 6 == 0


def templates() -> list[Template]:
    """Every template of Home Assistant's English intents, then the everyday ones."""
    found = []
    for intent, body in get_intents("en")["intents"].items():
        if intent in _LEFT_OUT:
            continue
        for block in body["data"]:
            context = block.get("requires_context", {}).get("domain", [])
            domains = tuple(context if isinstance(context, list) else [context])
            kind = block["metadata"]["slot_combination"]
            for text in block["sentences"]:
                found.append(
                    Template(intent, kind, text, parse_sentence(text).expression, block.get("slots", {}), domains)
                )
    for intent, slots, domains, texts in EVERYDAY:
        for text in texts:
            found.append(Template(intent, "everyday", text, parse_sentence(text).expression, slots, domains))
    return found


class Sampler:
    """Draws a sentence of a template, and the slots that its words fill."""

    def __init__(self, seed: int, *, unseen: bool) -> None:
        self._random = random.Random(seed)
        self._unseen = unseen
        source = get_intents("en")
        self._rules: dict[str, Sentence] = {
            name: parse_sentence(str(text)) for name, text in source["expansion_rules"].items()
        }
        self._lists: dict[str, Any] = source["lists"]

    def draw(self, template: Template) -> tuple[str, Slots]:
        slots: Slots = dict(template.slots)
        words = self._say(template.expression, template, slots)
        return " ".join(words.split()), slots

    def _say(self, part: Expression, template: Template, slots: Slots) -> str:
        if isinstance(part, TextChunk):
            return str(part.original_text)
        if isinstance(part, ListReference):
            return self._value(part, template, slots)
        if isinstance(part, RuleReference):
            return self._say(self._rules[part.rule_name].expression, template, slots)
        assert isinstance(part, Group)
        if isinstance(part, Alternative):
            return self._say(self._random.choice(part.items), template, slots)
        items = self._random.sample(part.items, len(part.items)) if isinstance(part, Permutation) else part.items
        return "".join(self._say(item, template, slots) for item in items)

    def _value(self, reference: ListReference, template: Template, slots: Slots) -> str:
        said, meant = self._pick(reference.list_name, template)
        slots[reference.slot_name] = meant
        return said

    def _pick(self, name: str, template: Template) -> tuple[str, Any]:
        if name == "name":
            devices = [device for domain in template.domains for device in DEVICES[domain]]
            return (word := self._word(devices)), word
        if name in WORDS:
            return (word := self._word(WORDS[name])), word
        source = self._lists[name]
        if "range" in source:
            return self._number(name, source["range"])
        choice = self._random.choice(source["values"])
        if isinstance(choice, str):
            return choice, choice
        said = self._say(parse_sentence(choice["in"]).expression, template, {})
        return said, choice["out"]

    def _word(self, words: Sequence[str]) -> str:
        """The last fifth of a list is kept for the test sentences, which draw from the whole list."""
        return self._random.choice(words if self._unseen else words[: max(1, len(words) * 4 // 5)])

    def _number(self, name: str, scale: Mapping[str, Any]) -> tuple[str, int | float]:
        low, high = LIKELY.get(name, (scale["from"], scale["to"]))
        step = scale.get("step", 1)
        if name.startswith("timer") and self._random.random() < 0.6:
            value: int | float = self._random.choice([1, 2, 3, 5, 10, 15, 20, 25, 30, 45])
        else:
            value = self._random.randrange(low, high + 1, step)
        if scale.get("fractions") == "halves" and self._random.random() < 0.15:
            value += 0.5
        return str(value), value * int(scale.get("multiplier") or 1)


def answer(intent: str, slots: Mapping[str, Any]) -> str:
    """Compact JSON, lower case, slots in the order of the contract, which is the order that a grammar draws them in."""
    ordered = {name: _plain(slots[name]) for name in _SLOT_ORDER if name in slots}
    if unknown := set(slots) - set(ordered):
        raise ValueError(f"The contract has no slot {sorted(unknown)}.")
    return json.dumps({"intent": intent, "slots": ordered}, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def contract() -> dict[str, Any]:
    """The JSON Schema of an answer: the intents and slots that the templates know, and nothing else."""
    known = templates()
    intents = sorted({template.intent for template in known})
    numeric = {
        "brightness", "percentage", "position", "volume_level", "hours", "minutes", "seconds",
        "start_hours", "start_minutes", "start_seconds",
    }  # fmt: skip
    free = {"volume_step": {"type": ["string", "integer"]}, "temperature": {"type": "number"}}
    slots = {
        name: {"type": "integer"} if name in numeric else free.get(name, {"type": "string"}) for name in _SLOT_ORDER
    }
    return {
        "type": "object",
        "properties": {
            "intent": {"enum": intents},
            "slots": {"type": "object", "properties": slots, "additionalProperties": False},
        },
        "required": ["intent", "slots"],
        "additionalProperties": False,
    }


def rows(split: str, count: int, seed: int = 0) -> list[Row]:
    """`count` different sentences of split "train" or "test". A sentence with two readings is left out."""
    test = split == "test"
    sampler = Sampler(seed + 10_000_000 * test, unseen=test)
    chance = random.Random(seed + 1 + 10_000_000 * test)
    pool = _grouped([template for template in templates() if template.held_out == test])
    readings: dict[str, set[str]] = {}
    said: dict[str, str] = {}
    for _ in range(40 * count):
        template = _choose(pool, chance)
        sentence, slots = sampler.draw(template)
        key = said.setdefault(sentence.lower(), sentence).lower()
        readings.setdefault(key, set()).add(answer(template.intent, slots))
        if len(readings) >= count:
            break
    clear = [(said[key], next(iter(labels))) for key, labels in readings.items() if len(labels) == 1]
    return [{"prompt": dress(sentence, chance), "answer": label} for sentence, label in clear]


def _grouped(known: Sequence[Template]) -> dict[str, dict[str, list[Template]]]:
    groups: dict[str, dict[str, list[Template]]] = {}
    for template in known:
        groups.setdefault(template.intent, {}).setdefault(template.block, []).append(template)
    return groups


_OFTEN = {"HassTurnOn": 6, "HassTurnOff": 6, "HassLightSet": 5, "HassClimateSetTemperature": 3, "HassGetState": 4,
          "HassStartTimer": 3, "HassMediaSearchAndPlay": 2, "HassSetPosition": 2, "HassSetVolume": 2}  # fmt: skip
_RARELY = {"HassGetCurrentDate": 0.4, "HassGetCurrentTime": 0.4, "HassCancelAllTimers": 0.4}


def _choose(pool: Mapping[str, Mapping[str, Sequence[Template]]], chance: random.Random) -> Template:
    intents = list(pool)
    weights = [_OFTEN.get(intent, _RARELY.get(intent, 1)) for intent in intents]
    blocks = pool[chance.choices(intents, weights)[0]]
    everyday = blocks.get("everyday")
    if everyday and (len(blocks) == 1 or chance.random() < 0.4):
        return chance.choice(everyday)
    return chance.choice(blocks[chance.choice([kind for kind in blocks if kind != "everyday"])])


_BEFORE = (
    "please ",
    "could you ",
    "can you ",
    "hey, ",
    "would you ",
    "can you please ",
    "could you please ",
    "I'd like you to ",
)
_AFTER = (" please", ", please", " for me", ", thanks", " now", " right now")
_QUESTION = ("what", "which", "is ", "are ", "how", "who", "where", "tell me", "whats", "do ")


def dress(sentence: str, chance: random.Random) -> str:
    """The same command with or without politeness, a capital letter and a full stop."""
    asks = sentence.lower().startswith(_QUESTION)
    if not asks and chance.random() < 0.22:
        sentence = chance.choice(_BEFORE) + sentence
    elif not asks and chance.random() < 0.12:
        sentence += chance.choice(_AFTER)
    if chance.random() < 0.4:
        sentence = sentence.lower()
    if chance.random() < 0.6:
        sentence = sentence[0].upper() + sentence[1:]
    if chance.random() < 0.4:
        sentence += "?" if asks or sentence.lower().startswith(("could", "can", "would")) else "."
    return sentence


@functools.cache
def train_rows() -> list[Row]:
    return rows("train", 5200)


@functools.cache
def test_rows() -> list[Row]:
    """Of held-out templates. Some say the same as a trained one ("stop the mower"): those sentences are left out."""
    chosen = rows("test", 900)
    random.Random(7).shuffle(chosen)
    return apart(chosen, train_rows())[:400]


def prompts(some: Sequence[Row]) -> Iterator[str]:
    for row in some:
        yield row["prompt"]
