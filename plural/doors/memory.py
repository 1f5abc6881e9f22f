"""What is remembered for good: shown, and forgotten."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from plural.doors.terminal import JsonOption, out

if TYPE_CHECKING:
    from plural.agents.memory import LongTerm, Memory


class Kind(Enum):
    fact = "fact"
    result = "result"


_LONGEST = 100  # characters of a text in the list

FileOption = Annotated[
    Path | None, typer.Option("--file", help="The memory. Default: ~/.local/share/plural/memory.sqlite.")
]
Number = Annotated[int, typer.Argument(metavar="NUMBER", help="A memory's number, as the list shows it.")]

app = typer.Typer(no_args_is_help=True, help="Facts and past results that agents keep: list, show, forget.")


@app.command(name="list")
def list_(
    kind: Annotated[Kind | None, typer.Option(help="Only these.")] = None,
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what is remembered, newest first."""
    memories = _memory(file).all(kind.value if kind else None)
    if as_json:
        _print(memories)
        return
    table = Table("number", "kind", "since", "from", "what", box=None, header_style="bold")
    for each in memories:
        first, _, more = each.text.partition("\n")
        text = first[:_LONGEST] + ("..." if more or len(first) > _LONGEST else "")
        table.add_row(str(each.id), each.kind, each.created[:16].replace("T", " "), each.source, text)
    out.print(table)


@app.command()
def show(number: Number, file: FileOption = None, as_json: JsonOption = False) -> None:
    """Show the whole of a memory."""
    memory = _memory(file).get(number)
    if as_json:
        _print([memory])
        return
    out.print(f"{memory.kind} {memory.id}, {memory.created[:16].replace('T', ' ')} UTC, from {memory.source or '-'}")
    out.print(memory.text, markup=False)


@app.command()
def forget(
    numbers: Annotated[list[int], typer.Argument(metavar="NUMBER...", help="The memories' numbers.")],
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget memories: they are deleted, and overwritten in the file."""
    _memory(file).forget(*numbers)
    if as_json:
        print(json.dumps({"forgotten": numbers}))
    else:
        out.print(f"Forgot {', '.join(map(str, numbers))}.")


def _memory(file: Path | None) -> LongTerm:
    from plural.wiring.settings import open_memory

    return open_memory(file)


def _print(memories: list[Memory]) -> None:
    for each in memories:
        print(json.dumps(asdict(each)))
