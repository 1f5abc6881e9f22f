"""The machine that everything runs on."""

from __future__ import annotations

import json

import typer
from rich.table import Table
from rich.text import Text

from plural.doors.terminal import BaseOption, JsonOption, LibraryOption, out


def doctor(base: BaseOption = None, library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """Say what this machine offers, whether the base model is there, and what to do about what is not."""
    from plural.wiring.doctor import examine

    findings = examine(base, library)
    if as_json:
        print(json.dumps([finding.to_json() for finding in findings]))
    else:
        table = Table(box=None, show_header=False)
        table.add_column()
        table.add_column(style="bold")
        for finding in findings:
            mark = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "bad": "[red]bad[/red]"}[finding.state]
            table.add_row(
                mark,
                finding.what,
                Text.assemble(finding.value, (f"\n{finding.advice}" if finding.advice else "", "dim")),
            )
        out.print(table)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(2)
