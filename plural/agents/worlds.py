"""A world in which an agent acts by choosing: games, simulators, anything that says what may be done next.

Nothing is written and parsed: every action is a decision among those that the world offers, with its probability.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from langchain_core.runnables import RunnableConfig

from plural import sync
from plural.agents.decisions import Model, adecide
from plural.errors import SettingsError
from plural.types import Decision

REMEMBERED = 3  # actions that the model is reminded of


@dataclass(frozen=True, slots=True)
class Scene:
    """What is the case. `about` is what stays so for a while (the task, what was read), `now` what is seen and held.

    `options` are the actions that are possible; none when it is `over`.
    """

    about: str
    now: str
    options: tuple[str, ...]
    score: float = 0.0
    won: bool = False
    over: bool = False


class World(Protocol):
    """Plain code, which answers in no time; one that takes long is better called in a thread."""

    def scene(self) -> Scene: ...

    def act(self, action: str) -> Scene:
        """Does one of the last scene's options; what is then the case."""
        ...


@dataclass(frozen=True, slots=True)
class Move:
    """An action that was taken, with the decision that it was; `scene` is what it was decided in."""

    scene: Scene
    decision: Decision[str]


@dataclass(frozen=True, slots=True)
class Play:
    """All moves, and how it stood after the last one."""

    moves: tuple[Move, ...]
    last: Scene


def asked(scene: Scene, done: Sequence[str]) -> str:
    """What a model reads before it chooses; a specialist is trained on this form. What changes least comes first, so
    that one move's text is mostly in the cache of the next."""
    last = f"Done: {'; '.join(done[-REMEMBERED:])}" if done else ""
    return "\n".join(part for part in (scene.about, last, scene.now) if part)


def play(model: Model, world: World, *, steps: int = 50, config: RunnableConfig | None = None) -> Play:
    """Chooses until the world is over or `steps` actions were taken.

    Where a scene looks as an earlier one did, what was done there is not offered again as long as there is something
    else: nobody walks in a circle.

    Raises:
        SettingsError: `steps` is below 1, or a scene that is not over offers nothing.
    """
    return sync.run(aplay(model, world, steps=steps, config=config))


async def aplay(model: Model, world: World, *, steps: int = 50, config: RunnableConfig | None = None) -> Play:
    """`play`, awaited."""
    if steps < 1:
        raise SettingsError(f"steps is {steps}; it must be at least 1.")
    moves: list[Move] = []
    taken: dict[tuple[str, str], set[str]] = defaultdict(set)
    scene = world.scene()
    while not scene.over and len(moves) < steps:
        if not scene.options:
            raise SettingsError(f"The world offers nothing to do, and is not over: {scene.now!r}.")
        before = taken[scene.about, scene.now]
        options = [option for option in scene.options if option not in before] or list(scene.options)
        text = asked(scene, [move.decision.value for move in moves])
        decision = await adecide(model, text, options, config=config)
        before.add(decision.value)
        moves.append(Move(scene, decision))
        scene = world.act(decision.value)
    return Play(tuple(moves), scene)
