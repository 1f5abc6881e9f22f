"""Games of TextWorldExpress, played by choosing among the valid actions: chance, base, specialists, generalist, router.

    python benchmarks/textworld.py                              30 test seeds of every game
    python benchmarks/textworld.py --library DIR --games sorting --episodes 100
    python benchmarks/textworld.py --generalists DIR            DIR from plural school GAME... --generalist --out DIR

Everybody plays the same seeds under the same rules (`plural.agents.worlds`): the same options, no action twice in a
scene that looks alike while there is another, at most so many steps. The seeds are those that the games keep for tests
(`--fold dev` for the others that nothing is trained on). Who has no adapter in the library is not in the table. The
router is the network's own: it reads the first scene of a game and says who plays it. All games of a line are played at
once. Won is what the game calls success; the score counts parts of it, and is below 0 where a mistake ends the game.
The last line is JSON. Needs Java.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from staff import gathered

from plural import Network, sync
from plural.agents.worlds import Play, aplay, asked
from plural.evals import interval
from plural.types import Decision, Option
from plural.wiring.recipe import STARTER_RECIPE
from plural.wiring.settings import STARTER

sys.path.append(str(STARTER_RECIPE))
from games import GAMES, INSTRUCTIONS, SKILLS, Game, seeds

Choose = Callable[[str, str], Awaitable[Any]]  # a game and its first scene -> who plays it


class Chance:
    """Every option alike."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    async def achoose(self, messages: Any, options: Sequence[str]) -> Decision[str]:  # noqa: ARG002 - Chooser's
        chosen = self._random.choice(list(options))
        share = 1 / len(options)
        return Decision(chosen, share, tuple(Option(option, share) for option in sorted(options, key=chosen.__ne__)))


async def played(name: str, fold: str, seed: int, choose: Choose, steps: int) -> Play:
    game = Game(name, fold, seed)
    model = await choose(name, asked(game.scene(), ()))
    return await aplay(model, game, steps=steps)


def lines_of(net: Network, generalists: Sequence[str], games: Sequence[str]) -> dict[str, Choose]:
    """Who may play, by name. Each is asked for a player of a game."""
    have = {one.name for one in net.mine()}
    chances = iter(range(10**9))

    async def chance(_name: str, _scene: str) -> Any:
        return Chance(next(chances))

    async def base(name: str, _scene: str) -> Any:
        return net.model(None, SKILLS[name].asked_of_base)

    async def specialist(name: str, _scene: str) -> Any:
        return net.specialist(name)

    async def routed(name: str, scene: str) -> Any:
        router = await net.router()
        assert router is not None  # there are specialists
        chosen = (await router.route(scene, net.reader)).value
        return net.specialist(chosen) if chosen != "base" else await base(name, scene)

    def generalist(called: str) -> Choose:
        async def choose(_name: str, _scene: str) -> Any:
            return net.specialist(called).model_copy(update={"instructions": INSTRUCTIONS})

        return choose

    lines: dict[str, Choose] = {"chance": chance, "base": base}
    if have & set(games):
        lines["specialist"] = specialist
    lines |= {called: generalist(called) for called in generalists}
    if set(games) <= have:
        lines["network, learned router"] = routed
    return lines


def figures(plays: Sequence[Play], seconds: float) -> dict[str, Any]:
    value, low, high = interval([float(play.last.won) for play in plays])
    moves = [move for play in plays for move in play.moves]
    return {
        "games": len(plays),
        "won": value,
        "low": low,
        "high": high,
        "score": sum(play.last.score for play in plays) / len(plays),
        "moves": len(moves) / len(plays),
        "options": sum(len(move.scene.options) for move in moves) / len(moves),
        "probability": sum(move.decision.probability for move in moves) / len(moves),
        "seconds": seconds,
    }


def drawn(found: dict[str, Any]) -> str:
    spread = f"[{found['low']:.2f}, {found['high']:.2f}]"
    return (
        f"{found['won']:7.2f}{spread:>16}{found['score']:8.2f}{found['moves']:7.1f}{found['options']:9.1f}"
        f"{found['seconds'] / found['games']:10.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES))
    parser.add_argument("--episodes", type=int, default=30, help="seeds of each game")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--fold", choices=["dev", "test"], default="test")
    parser.add_argument("--library", type=Path, default=STARTER)
    parser.add_argument("--generalists", type=Path)
    parser.add_argument("--who", nargs="+", help="only these lines of the table")
    given = parser.parse_args()
    table: dict[str, Any] = {}
    print(f"{'':42}{'won':>7}{'95%':>16}{'score':>8}{'moves':>7}{'options':>9}{'s a game':>10}")
    with tempfile.TemporaryDirectory() as folder:
        generalists = gathered(given.library, given.generalists, Path(folder))
        with Network.open(library=folder, starter=False) as net:
            for name in given.games:
                chosen = seeds(name, given.fold)[: given.episodes]
                for who, choose in lines_of(net, generalists, given.games).items():
                    if (who == "specialist" and name not in net.names()) or who not in (given.who or [who]):
                        continue

                    async def everybody(choose: Choose = choose, name: str = name, on: Any = chosen) -> list[Play]:
                        return list(
                            await asyncio.gather(*(played(name, given.fold, seed, choose, given.steps) for seed in on))
                        )

                    started = time.perf_counter()
                    found = figures(sync.run(everybody()), time.perf_counter() - started)
                    table[f"{name}, {who}"] = found
                    print(f"{f'{name}, {who}':42}{drawn(found)}", flush=True)
    print(json.dumps({"benchmark": "textworld", "fold": given.fold, "steps": given.steps, "results": table}))


if __name__ == "__main__":
    main()
