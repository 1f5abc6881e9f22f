"""A board game with a board that checks moves (AutoGen's A6): what is no move is said, and asked for again.

    python recipes/teams/tic_tac_toe.py

A pattern of one's own: a function from what was said to who is next. A player says a move as text; after an illegal
one the board tells why, and after a second one it lets the player choose among the legal moves, which cannot be
illegal. So a game always ends, also one of players of 135M parameters, which do not play well.
"""

from __future__ import annotations

from typing import Any

from plural.agents import Agent
from plural.teams import Team
from plural.teams.patterns import Assignment, Decide, Finish, Next, Pattern, Speak, State

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
PLAYERS = ("X", "O")
RULES = "You play tic-tac-toe. Say the number of a free square, 1 to 9, and nothing else."
PATIENCE = 2  # illegal moves of a turn, before the board lets choose


def team(one: Any, other: Any) -> Team:
    members = [Agent(name, model, instructions=RULES) for name, model in zip(PLAYERS, (one, other), strict=True)]
    game = Pattern("tic-tac-toe", play, PLAYERS, deciders=PLAYERS)
    return Team("game", members, game, max_turns=9 * (PATIENCE + 1))


def play(state: State) -> Next:
    """Replays what was said; then the next player is asked, or the game is over."""
    board, said = [" "] * 9, [turn.text for turn in state.turns]
    for number in range(9):
        player, why = PLAYERS[number % 2], ""
        for _ in range(PATIENCE):
            if not said:
                return Speak((Assignment(player, f"{drawn(board)}\n\nYou are {player}. {why}Your move?"),))
            move, why = read(said.pop(0), board)
            if not why:
                break
        else:
            chosen = state.decisions(f"move {number}")
            free = tuple(str(at + 1) for at in range(9) if board[at] == " ")
            if not chosen:
                return (Decide(f"move {number}", f"{drawn(board)}\n\nYou are {player}. Your move?", free, by=player),)
            move = int(chosen[0].value) - 1
        board[move] = player
        if any(all(board[at] == player for at in line) for line in LINES):
            return Finish(f"{drawn(board)}\n{player} wins.")
    return Finish(f"{drawn(board)}\nA draw.")


def read(text: str, board: list[str]) -> tuple[int, str]:
    """The square, and what is wrong with it."""
    word = text.strip().rstrip(".")
    if word not in set("123456789"):
        return -1, f"{word[:40]!r} is no square. "
    at = int(word) - 1
    return at, "" if board[at] == " " else f"{word} is taken. "


def drawn(board: list[str]) -> str:
    squares = [mark if mark != " " else str(at + 1) for at, mark in enumerate(board)]
    return "\n".join(" ".join(squares[row : row + 3]) for row in (0, 3, 6))


if __name__ == "__main__":
    from plural import Network

    with Network.open(max_tokens=8) as network:
        print(team(network.base, network.base).invoke("Play."))
