"""What the router learns from runs: who should have answered one, and all that went well."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from plural.doors.runs import RunArgument, open_journal
from plural.doors.terminal import JOURNAL, JournalOption, JsonOption, LibraryOption, out


def correct(
    run: RunArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who should have answered: a specialist, or base.")],
    step: Annotated[int, typer.Option(help="Of a plan, which step.")] = 0,
    journal: JournalOption = JOURNAL,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say who should have answered a run; the router knows it from the next question on."""
    from plural.teams.learning import Lessons, correction
    from plural.teams.router import BASE
    from plural.wiring.settings import open_library

    shelf = open_library(library)
    with open_journal(journal) as opened:
        lesson = correction(opened, run, name, [BASE, *(one.name for one in shelf)], step=step)
    _say(Lessons.of(shelf).add([lesson]), as_json)


def learn(
    sure: Annotated[
        float, typer.Option(help="How sure the router must have been of a decision that nobody commented on.")
    ] = 0.8,
    journal: JournalOption = JOURNAL,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the router learn from the runs that went well, and from those that were sent to a specialist by name."""
    from plural.teams.learning import Lessons, went_well
    from plural.wiring.settings import open_library

    with open_journal(journal) as opened:
        found = list(went_well(opened, sure=sure))
    _say(Lessons.of(open_library(library)).add(found), as_json)


def _say(count: int, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"lessons": count}))
    else:
        out.print(f"{count} new {'lesson' if count == 1 else 'lessons'}.")
