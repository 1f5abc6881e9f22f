"""What a user writes: nothing in it says where the base is computed. It runs as it stands here and on a cluster."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from plural import Agent, Network
from plural.agents import mark, tool
from plural.testing import ScriptedModel, calling


@mark(long=True)
@tool
def dig(file: str) -> str:
    """Digs for long.

    Args:
        file: Where to leave a note.
    """
    Path(file).write_text(str(os.getpid()))
    return "found"


def main(out: Path) -> None:
    note = str(out.with_suffix(".note"))
    with Network.open() as net:
        answers = {name: str(net.ask("file this paper", to=name)) for name in ("clerk", "judge", "base")}
        answers["mixed"] = str(net.ask("file this paper", to="clerk:0.7+judge:0.3"))
        agent = Agent("digger", ScriptedModel([calling(("dig", {"file": note})), "It was found."]), tools=[dig])
        answers["agent"] = str(agent.invoke("Dig."))
        chosen = asyncio.run(net.specialist("cook").achoose("Which?", ["yes", "no"]))
        answers["chosen"] = f"{chosen.value} {chosen.probability}"
    out.write_text(json.dumps({"answers": answers, "pid": os.getpid(), "dug": int(Path(note).read_text())}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
