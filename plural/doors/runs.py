"""Runs that are in the journal: list them, read one, go on with it, play it back, branch it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from plural import sync
from plural.doors.asking import show
from plural.doors.terminal import (
    JOURNAL,
    BaseOption,
    DtypeOption,
    EngineOption,
    JournalOption,
    JsonOption,
    LibraryOption,
    MemoryOption,
    err,
    open_network,
    out,
)
from plural.errors import SettingsError

if TYPE_CHECKING:
    from plural.teams.journal import Journal

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's name, or how it begins.")]


def runs(journal: JournalOption = JOURNAL, as_json: JsonOption = False) -> None:
    """List the runs in the journal, newest first."""
    with open_journal(journal) as opened:
        known = opened.runs()
    if as_json:
        for run in known:
            print(json.dumps(asdict(run)))
        return
    table = Table("run", "began", "status", "entries", "what for", box=None, header_style="bold")
    for run in known:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started))
        origin = f" (from {run.parent} at {run.forked_at})" if run.parent else ""
        table.add_row(run.id, began, run.status, str(run.entries), Text(f"{run.title}{origin}"))
    out.print(table)


def show_run(run: RunArgument, journal: JournalOption = JOURNAL, as_json: JsonOption = False) -> None:
    """Show every entry of a run, with the number that `fork --at` takes."""
    from plural.teams.journal.entries import written

    with open_journal(journal) as opened:
        for entry in opened.entries(opened.find(run).id):
            kind, body = written(entry.what)
            if as_json:
                whole = {"seq": entry.seq, "at": entry.at, "kind": kind, "path": entry.path, "body": json.loads(body)}
                print(json.dumps(whole))
                continue
            at = time.strftime("%H:%M:%S", time.localtime(entry.at))
            line = Text.assemble((f"{entry.seq:>5} {at} ", "dim"), (f"{kind:<13} ", "green"), (f"{entry.path} ", "dim"))
            out.print(line.append(body), soft_wrap=True)


def resume(
    run: RunArgument,
    answer: Annotated[
        str | None,
        typer.Option(help="To what the run asks. Of an interrupted call: done, repeat, or what the tool returned."),
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="MODULE:NAME", help="The chat model of a team begun with --by.")
    ] = None,
    journal: JournalOption = JOURNAL,
    base: BaseOption = None,
    library: LibraryOption = None,
    memory: MemoryOption = None,
    dtype: DtypeOption = None,
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that was interrupted, failed or waits for an answer. Nothing finished is done again."""
    from plural.wiring import drafting

    with open_journal(journal) as opened:
        found = opened.find(run).id
        if answer is not None:
            opened.answer(found, answer)
    with open_network(base, library, memory=memory, dtype=dtype, engine=engine, journal=journal) as network:
        show(drafting.resume(network, found, by), as_json)


def replay(run: RunArgument, journal: JournalOption = JOURNAL, as_json: JsonOption = False) -> None:
    """Play a run back as it was, to the token. Nothing is computed: it needs neither base nor specialists."""
    from plural.teams import journal as journals

    with open_journal(journal) as opened:
        show(sync.iterate(journals.replay(opened, run)), as_json)


def fork(
    run: RunArgument,
    at: Annotated[int, typer.Option(metavar="ENTRY", help="The last entry that both share; `plural show-run`.")],
    with_: Annotated[
        str | None, typer.Option("--with", metavar="SPECIALIST", help="Who speaks from there on, whoever spoke before.")
    ] = None,
    journal: JournalOption = JOURNAL,
    as_json: JsonOption = False,
) -> None:
    """Branch a run; nothing is copied. `plural resume` goes on with the branch."""
    with open_journal(journal) as opened:
        forked = opened.fork(run, at, {"with": with_} if with_ else None)
    if as_json:
        print(json.dumps({"run": forked}))
    else:
        out.print(forked)
        err.print(f"[dim]plural resume {forked}[/dim]")


def open_journal(journal: str) -> Journal:
    """Raises SettingsError for none."""
    from plural.teams.journal import Journal

    if journal == "none":
        raise SettingsError("There are no runs without a journal.", hint="Give --journal FILE.")
    return Journal(journal)
