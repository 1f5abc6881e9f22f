"""A text game with grounding (AutoGen's A3): one says what to do, the game does it, and a third knows how things are.

    python recipes/teams/text_game.py coin          of TextWorldExpress: `pip install textworld-express`, and Java

The assistant chooses among the game's valid actions, so it cannot say one that is none. When nothing has changed for a
while, the grounding agent says a fact about such worlds before the assistant chooses again. With the embedded base this
shows the conversation; it plays little better than chance.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from plural.agents import Agent
from plural.teams import Proxy, Team
from plural.teams.patterns import Assignment, Decide, Finish, Next, Pattern, Speak, State, Turn

ASSISTANT = "You play a text game. Choose the next action."
GROUNDING = "You know how such games work. Say one fact that helps, such as: a closed door must be opened first."
PATIENCE = 2  # scenes that look alike, before grounding
READS = 4  # turns that the assistant reads besides the task
BEGIN, CHOICES, OVER = "Begin.", "You can: ", "The game is over: "


@dataclass(frozen=True)
class Scene:
    text: str
    actions: Sequence[str]
    over: str = ""


class Game(Protocol):
    def begin(self) -> Scene: ...

    def act(self, action: str) -> Scene: ...


def team(assistant: Any, grounding: Any, game: Game, *, turns: int = 60) -> Team:
    def execute(action: str) -> str:
        scene = game.begin() if action == BEGIN else game.act(action)
        return f"{scene.text}\n{OVER + scene.over if scene.over else CHOICES + ' | '.join(scene.actions)}"

    members = [
        Agent("assistant", assistant, instructions=ASSISTANT, description="Chooses what to do."),
        Agent("grounding", grounding, instructions=GROUNDING, description="Knows how things are."),
        Proxy("executor", execute, description="The game."),
    ]
    played = Pattern("text game", play, ("assistant", "grounding", "executor"), deciders=("assistant",))
    return Team("adventure", members, played, max_turns=turns)


def play(state: State) -> Next:
    scenes = [turn for turn in state.turns if turn.agent == "executor"]
    if not scenes:
        return Speak((Assignment("executor", BEGIN),))
    last = scenes[-1].text
    if OVER in last:
        return Finish(last)
    if stuck(scenes) and state.turns[-1].agent != "grounding":
        return Speak((Assignment("grounding"),))
    key = f"action {len(scenes)}"
    chosen = state.decisions(key)
    if not chosen:
        actions = tuple(last.rpartition(CHOICES)[2].split(" | "))
        heard = state.transcript(range(max(len(state.turns) - READS, 0), len(state.turns)))
        return (Decide(key, f"{heard}\nWhat do you do?", actions, by="assistant"),)
    return Speak((Assignment("executor", chosen[0].value),))


def stuck(scenes: Sequence[Turn]) -> bool:
    """Do the last scenes look alike?"""
    latest = [scene.text for scene in scenes[-PATIENCE - 1 :]]
    return len(latest) > PATIENCE and len(set(latest)) == 1


class TextWorldExpress:
    """One game of the package `textworld-express`, which starts a Java program."""

    def __init__(self, name: str, seed: int = 0, *, steps: int = 50) -> None:
        if shutil.which("java") is None:
            raise SystemExit("TextWorldExpress needs Java, and there is none: install a Java runtime (11 or newer).")
        from textworld_express import TextWorldExpressEnv

        self._game, self._seed = TextWorldExpressEnv(envStepLimit=steps), seed
        self._game.load(gameName=name, gameParams="")
        self.task = ""

    def begin(self) -> Scene:
        text, infos = self._game.reset(seed=self._seed, gameFold="dev", generateGoldPath=False)
        self.task = infos["taskDescription"]
        return Scene(text, sorted(infos["validActions"]))

    def act(self, action: str) -> Scene:
        text, _, done, infos = self._game.step(action)
        over = f"score {infos['score']:.2f}" if done or infos["tasksuccess"] else ""
        return Scene(text, sorted(infos["validActions"]), over)

    def close(self) -> None:
        self._game.close()
        self._game._gateway.java_process.communicate()


if __name__ == "__main__":
    from plural import Network

    with Network.open(max_tokens=32) as network:
        game = TextWorldExpress(sys.argv[1] if len(sys.argv) > 1 else "coin")
        game.begin()
        for event in team(network.base, network.base, game).events(game.task):
            if getattr(event, "answer", "") and getattr(event, "agent", ""):
                print(f"{event.agent}: {event.answer}")  # type: ignore[union-attr]
        game.close()
