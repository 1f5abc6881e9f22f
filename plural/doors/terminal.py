"""What every command shares: the terminal it prints on, the options that many take, the progress it shows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from plural.errors import PluralError, SettingsError

if TYPE_CHECKING:
    from plural.agents import Budget, Price
    from plural.wiring.network import Network
    from plural.wiring.stages import Stage

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

BaseOption = Annotated[
    Path | None,
    typer.Option(help="A model directory (Hugging Face layout) or a GGUF file. Default: the embedded SmolLM2-135M."),
]
LibraryOption = Annotated[
    Path | None, typer.Option(help="Your library of specialists. Default: ~/.local/share/plural.")
]
MemoryOption = Annotated[str | None, typer.Option(help="What the process may hold in all, as 4GB.")]
DtypeOption = Annotated[
    str | None, typer.Option(help="How the engine holds the base's linears; auto: the smallest that rounds none.")
]
EngineOption = Annotated[
    str | None,
    typer.Option(help="Who computes: plural (default), vllm:http://host:port, or vllm, which is then started."),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        metavar="LIMIT=N,...",
        help="What it may cost: any of steps (model calls), tokens, seconds, money, as tokens=2000,seconds=30.",
    ),
]
PriceOption = Annotated[
    str | None,
    typer.Option(
        metavar="KIND=N,...",
        help="What a million tokens of --by's model cost: read, written, and cached (as read unless it is given), as "
        "read=3,written=15. A budget of money needs it.",
    ),
]
JOURNAL = "~/.local/share/plural/journal.db"
JournalOption = Annotated[
    str,
    typer.Option(envvar="PLURAL_JOURNAL", help="Where runs are written: an SQLite file, a database's URL, or none."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, for programs.")]


_Kinds = dict[str, Callable[[str], float]]


def budget_of(said: str | None) -> Budget:
    """Raises SettingsError for what is no budget."""
    from plural.agents import Budget

    kinds: _Kinds = {"steps": int, "tokens": int, "seconds": float, "money": float}
    return Budget(**_figures("--budget", "limit", said or "", kinds))


def price_of(said: str | None) -> Price | None:
    """Raises SettingsError for what is no price."""
    from plural.agents import Price

    kinds: _Kinds = {"read": float, "written": float, "cached": float}
    return Price(**_figures("--price", "price", said, kinds)) if said else None


def _figures(option: str, one: str, said: str, kinds: _Kinds) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for each in said.split(",") if said else ():
        name, _, value = (part.strip() for part in each.partition("="))
        try:
            figures[name] = kinds[name](value)
        except (KeyError, ValueError):
            raise SettingsError(
                f"{each!r} in {option} is no {one}.", hint=f"Write {', '.join(f'{kind}=N' for kind in kinds)}."
            ) from None
    return figures


def complain(error: PluralError) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}))
        return
    err.print(Text.assemble(("Error: ", "bold red"), error.message, (f"\n{error.hint}" if error.hint else "", "dim")))


@contextmanager
def open_network(
    base: Path | None, library: Path | None, *, journal: str | None = None, **settings: Any
) -> Iterator[Network]:
    """Opens the network, with a progress bar for whatever takes longer than a moment, and closes it."""
    from plural.wiring.network import Network

    with (
        bars() as report,
        Network.open(base=base, library=library, progress=report, journal=journal, **settings) as network,
    ):
        report("", 1.0)
        yield network


@contextmanager
def bars() -> Iterator[Callable[[str, float], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        rows: dict[str, Any] = {}

        def report(what: str, done: float) -> None:
            if not what:
                progress.stop()
                for row in rows.values():
                    progress.remove_task(row)
                rows.clear()
                return
            progress.start()
            row = rows.get(what)
            if row is None:
                row = rows[what] = progress.add_task(what, total=1.0)
            progress.update(row, completed=done)

        yield report


def follow(stages: Iterable[Stage], as_json: bool, trained: Sequence[str] = ()) -> None:
    """Carries out the work; `trained` are the specialists that are trained by it."""
    from plural.wiring import progress

    if as_json:
        for stage in stages:
            print(json.dumps(stage.to_json()), flush=True)
    elif trained:
        progress.follow_training(stages, trained, err)
    else:
        progress.follow(stages, err)
