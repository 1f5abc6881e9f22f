"""The door: what a person types. Each command prints for people, or one JSON object a line with --json."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from plural.errors import PluralError, UserError
from plural.types import (
    Event,
    Planned,
    Routed,
    RunFinished,
    StepStarted,
    TextDelta,
    ToolCalled,
    ToolReturned,
    event_to_json,
)

if TYPE_CHECKING:
    from plural.wiring.network import Network
    from plural.wiring.school import School


class _StoppedError(Exception):
    """Ctrl-C, with what is to be said about it. Typer would end a program that stands in a `main` with 0."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise _StoppedError(str(stopped) or "Stopped.") from stopped


app = typer.Typer(
    name="plural",
    cls=_Commands,
    help="One small base model, many specialists, one answer. Everything runs on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
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
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, for programs.")]


def main() -> None:
    """Exits with 0 when done, 1 for a fault of the machine or the model, 2 for something to change, 130 for Ctrl-C."""
    try:
        app(standalone_mode=False)
    except _StoppedError as stopped:
        err.print(str(stopped))
        sys.exit(130)
    except PluralError as error:
        _complain(error)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except typer.Abort:
        sys.exit(130)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except Exception as error:  # click's usage errors print themselves; all else is shown whole
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))


def _complain(error: PluralError) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}))
        return
    err.print(Text.assemble(("Error: ", "bold red"), error.message, (f"\n{error.hint}" if error.hint else "", "dim")))


@contextmanager
def _network(base: Path | None, library: Path | None, **settings: Any) -> Iterator[Network]:
    """Opens the network, with a progress bar for whatever takes longer than a moment, and closes it."""
    from plural.wiring.network import Network

    with _bars() as report, Network.open(base=base, library=library, progress=report, **settings) as network:
        report("", 1.0)
        yield network


@contextmanager
def _bars() -> Iterator[Callable[[str, float], None]]:
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


# ------------------------------------------------------------------------------------------------------------- asking
@app.command()
def ask(
    questions: Annotated[
        list[str],
        typer.Argument(metavar="QUESTION...", help="What you want, in your own words. '-' reads standard input."),
    ],
    base: BaseOption = None,
    library: LibraryOption = None,
    to: Annotated[
        str | None, typer.Option(help="Skip the router and ask this specialist, 'base', or a mixture: a:0.7+b:0.3.")
    ] = None,
    memory: MemoryOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the network: it picks the specialists, calls tools and answers, and shows how."""
    with _network(base, library, memory=memory, dtype=dtype) as network:
        for question in questions:
            request = sys.stdin.read().strip() if question == "-" else question
            if not as_json:
                out.rule(Text(request, style="bold"), align="left", style="dim")
            _show(network.stream(request, to=to), as_json)


@app.command()
def chat(
    base: BaseOption = None,
    library: LibraryOption = None,
    to: Annotated[str | None, typer.Option(help="Talk to this specialist (or 'base', or a:0.7+b:0.3) only.")] = None,
    memory: MemoryOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Talk to the network; it keeps the conversation. An empty line or Ctrl-D ends it."""
    with _network(base, library, memory=memory, dtype=dtype) as network:
        conversation = network.conversation(to=to)
        interactive = sys.stdin.isatty()
        if interactive and not as_json:
            err.print("[dim]Ask away. An empty line ends the conversation.[/dim]")
        while True:
            if interactive:
                err.print("[bold cyan]you[/bold cyan] ", end="")
            line = sys.stdin.readline().strip()
            if not line:
                return
            try:
                _show(conversation.stream(line), as_json)
            except UserError as error:
                _complain(error)


def _show(events: Iterable[Event], as_json: bool) -> None:
    if as_json:
        for event in events:
            print(json.dumps(event_to_json(event)), flush=True)
        return
    view = _RunView()
    for event in events:
        view.show(event)


class _RunView:
    """Prints a run as it happens: who was chosen, what each was asked and said, tools, the answer.

    Steps run at once, the terminal has one open line: while a step speaks, what happens in the others is held."""

    def __init__(self) -> None:
        self._speaking: int | None = None
        self._held: list[Event] = []
        self._planned = False

    def show(self, event: Event) -> None:
        if self._speaking not in (None, getattr(event, "step", self._speaking)):
            self._held.append(event)
            return
        if isinstance(event, TextDelta):
            self._text(event)
            return
        if self._speaking is None:
            self._print(event)
            return
        out.print()
        self._speaking = None
        held, self._held = self._held, []
        for waiting in (*held, event):
            self.show(waiting)

    def _print(self, event: Event) -> None:
        match event:
            case Routed():
                self._routed(event)
            case Planned():
                self._planned = True
                out.print(Text.assemble((_label("plan"), "magenta"), f"{len(event.steps)} steps"))
                for number, step in enumerate(event.steps, 1):
                    out.print(Text(f"{_label('')}{number}. {step.task}", style="dim"))
            case StepStarted():
                out.print(Text.assemble((_label(event.agent), "bold green"), ("asked   ", "dim"), event.task))
            case ToolCalled():
                arguments = ", ".join(f"{name}={value!r}" for name, value in event.call.arguments.items())
                out.print(Text.assemble(_who(event.agent), ("calls   ", "yellow"), f"{event.call.name}({arguments})"))
            case ToolReturned():
                style = "red" if event.failed else "yellow"
                out.print(Text.assemble(_who(event.agent), ("gets    ", style), event.result))
            case RunFinished():
                self._finished(event)

    def _routed(self, event: Routed) -> None:
        options = event.decision.options[:3]
        others = "  ".join(
            f"{option.value} {option.probability:.2f}" for option in options if option.value != event.decision.value
        )
        label = _label(f"route {event.step}" if event.step else "route")
        out.print(
            Text.assemble(
                (label, "magenta"),
                (event.decision.value, "bold"),
                f" {event.decision.probability:.2f}",
                (f"   ({others})" if others else "", "dim"),
            )
        )

    def _text(self, event: TextDelta) -> None:
        if self._speaking is None and event.text:
            out.print(Text.assemble(_who(event.agent), ("says    ", "green")), end="")
            self._speaking = event.step
        out.print(event.text, end="", markup=False, soft_wrap=True)

    def _finished(self, event: RunFinished) -> None:
        usage = event.usage
        tokens = f"{usage.prompt} prompt ({usage.cached} cached) + {usage.completion} new tokens, {event.seconds:.1f} s"
        out.print(Panel(Text(event.answer), title="answer", subtitle=f"[dim]{tokens}[/dim]"))


def _who(agent: str) -> tuple[str, str]:
    return (_label(agent), "green")


def _label(word: str) -> str:
    """The first column, wide enough for most names and never without a gap behind it."""
    return f"{word:<9} "


# ------------------------------------------------------------------------------------------------------------- library
@app.command(name="list")
def list_(library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """List the specialists: what each is for and how it scores against the base."""
    from plural.wiring.settings import open_library

    cards = [specialist.card for specialist in open_library(library)]
    if as_json:
        for card in cards:
            print(card.model_dump_json())
        return
    table = Table("specialist", "for", "score", "base", "tools", box=None, header_style="bold")
    for card in cards:
        scores = [_headline(card, who) for who in ("specialist", "base")]
        table.add_row(card.name, card.purpose, *scores, ", ".join(card.tools))
    out.print(table)


def _headline(card: Any, who: str) -> str:
    scores = card.scores.get(who, ())
    return f"{scores[0].value:.2f}" if scores else "-"


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The specialist's name.")],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a specialist's card: contract, scores, examples, where it comes from."""
    from plural.wiring.settings import open_library

    specialist = open_library(library).get(name)
    card = specialist.card
    if as_json:
        print(card.model_dump_json())
        return
    rows = Table(box=None, show_header=False)
    rows.add_column(style="bold")
    for label, value in (
        ("for", card.purpose),
        ("kind", card.kind),
        ("base", f"{card.base_name} ({card.base[:19]}…)"),
        ("adapter", f"{card.digest[:19]}… in {specialist.path}"),
        ("instructions", card.instructions or "-"),
        ("output", f"{card.output.kind}: {_short(card.output.source)}" if card.output else "free text"),
        ("tools", ", ".join(card.tools) or "-"),
        ("licence", card.licence),
    ):
        rows.add_row(label, Text(value))
    scores = Table("who", "metric", "score", "rows", "by", box=None, header_style="bold")
    for who, held in card.scores.items():
        for score in held:
            scores.add_row(who, score.metric, f"{score.value:.3f}", str(score.n), score.by)
    examples = Text("\n".join(f"  {_short(example)}" for example in card.examples[:5]), style="dim")
    out.print(Panel(Group(rows, Text(), scores, Text("\nfor example", style="bold"), examples), title=card.name))


def _short(text: str, width: int = 100) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


# ------------------------------------------------------------------------------------------------------------ training
@app.command()
def train(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="JSONL, {'prompt', 'answer'} or {'messages': [...]} a line: each file becomes a specialist. Or a "
            "school.toml with a table for each. All are trained at once.",
        ),
    ],
    name: Annotated[
        list[str] | None, typer.Option(help="The new specialist's name; once for each file. Default: the file's.")
    ] = None,
    purpose: Annotated[str | None, typer.Option(help="One sentence: what it is for.")] = None,
    instructions: Annotated[
        str | None, typer.Option(help="A system message that it always sees. Short is fast.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Held-out rows to score on. Default: a tenth of the data.")] = None,
    checker: Annotated[
        str | None, typer.Option(help="How answers are scored: exact (the default), json, cron or toolcall.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank. Default: 8.")] = None,
    rslora: Annotated[bool | None, typer.Option("--rslora", help="Scale by alpha / sqrt(rank).")] = None,
    activated: Annotated[
        bool | None,
        typer.Option("--activated", help="Act on the answer only (aLoRA): all that comes before is read once for all."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="Passes over the data at most. Default: 3, or what 40 steps need; it stops early."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps at most, whatever the epochs say.")] = None,
    batch_rows: Annotated[int | None, typer.Option(help="Rows of one step. Default: 8.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the split, the order and the weights.")] = None,
    compute: Annotated[
        str | None, typer.Option(help="Precision of the frozen base: auto (the default), fp32 or bf16.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the specialist.")] = None,
    replace: Annotated[bool, typer.Option(help="Replace a specialist of this name.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted training stopped.")] = False,
    base: BaseOption = None,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train new specialists from examples, all at once, score each beside the base, and put them into the network."""
    from plural.wiring.school import read_school

    said = {
        "purpose": purpose, "instructions": instructions, "test": test, "checker": checker, "rank": rank,
        "rslora": rslora, "activated": activated, "learning_rate": learning_rate, "epochs": epochs,
        "max_steps": max_steps, "batch_rows": batch_rows, "seed": seed, "compute": compute, "licence": licence,
    }  # fmt: skip
    school = read_school(data, name or (), said, replace=replace, resume=resume, base=base, library=library)
    _show_training(school, as_json)


def _show_training(school: School, as_json: bool) -> None:
    from plural.wiring.table import TrainingTable
    from plural.wiring.training import train_school

    if as_json:
        for stage in train_school(school):
            print(json.dumps(stage.to_json()), flush=True)
        return
    table = TrainingTable([order.name for order in school.orders])
    with Live(table, console=err, refresh_per_second=4) as live:
        for stage in train_school(school):
            table.show(stage)
            if stage.result:
                live.console.print(Text(stage.result))


# ------------------------------------------------------------------------------------------------------------- machine
@app.command()
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


if __name__ == "__main__":
    main()
