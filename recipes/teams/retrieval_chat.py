"""Retrieval chat with updates (AutoGen's A2): the assistant answers from passages, or asks for the next ones.

    python recipes/teams/retrieval_chat.py "Who keeps the key?" notes.txt

Passages are paragraphs of a file, found by meaning. The assistant's answer is drawn from what its contract allows: a
sentence, or the words that ask for more, to the letter. Whether the embedded base asks when it should was not measured.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from plural.agents import Agent
from plural.agents.memory import LongTerm
from plural.teams import Proxy, Team, stop
from plural.teams.patterns import round_robin

UPDATE = "UPDATE CONTEXT"
ASSISTANT = f"Answer the question from the passages, in one sentence. If they do not say it, write only: {UPDATE}"


def team(model: Any, passages: LongTerm, *, at_once: int = 2) -> Team:
    """`passages` are the facts in a memory; so many are shown at once."""

    async def retrieve(heard: str) -> str:
        question, shown = heard.splitlines()[0], heard.count(UPDATE) * at_once
        found = await passages.recall(question, shown + at_once, kind="fact")
        return " | ".join(each.memory.text for each in found[shown:]) or "There are no more passages."

    librarian = Proxy("librarian", retrieve, description="Finds passages.", idempotent=True)
    assistant = Agent("assistant", model, instructions=ASSISTANT, output=rf"{UPDATE}|[A-Z][^|\n]{{1,200}}\.")
    ends = stop.messages(8) | stop.Condition(
        lambda state: "answered" if state.last and state.last.agent == "assistant" and state.last.text != UPDATE else ""
    )
    return Team("retrieval", [librarian, assistant], round_robin(["librarian", "assistant"]), stop=ends)


def read(passages: Sequence[str], memory: LongTerm) -> LongTerm:
    for passage in passages:
        memory.remember(passage)
    return memory


if __name__ == "__main__":
    from plural import Network

    question, file = sys.argv[1:]
    with Network.open() as network, TemporaryDirectory() as folder:
        paragraphs = [each for each in Path(file).read_text().split("\n\n") if each.strip()]
        memory = read(paragraphs, LongTerm(Path(folder) / "passages.sqlite", network.base, space="base"))
        print(team(network.base, memory).invoke(question))
