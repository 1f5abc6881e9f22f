"""The door: what a person types. Each command prints for people, or one JSON object a line with --json."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
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
    from plural.specialists import Card
    from plural.wiring.network import Network
    from plural.wiring.stages import Stage


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
    from plural.evals import drawing
    from plural.wiring.settings import open_library

    cards = [specialist.card for specialist in open_library(library)]
    if as_json:
        for card in cards:
            print(card.model_dump_json())
        return
    table = Table("specialist", "for", "score", "base", "tools", box=None, header_style="bold")
    for card in cards:
        scores = [drawing.headline(card, who) for who in ("specialist", "base")]
        table.add_row(card.name, card.purpose, *scores, ", ".join(card.tools))
    out.print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The specialist's name.")],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a specialist's card: contract, scores, examples, where it comes from, and its versions."""
    from plural.evals import drawing
    from plural.wiring.settings import open_library

    library_ = open_library(library)
    specialist = library_.get(name)
    if as_json:
        print(specialist.card.model_dump_json())
        return
    out.print(drawing.portrait(specialist, library_.versions(specialist.name)))


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
    contract: Annotated[
        str | None,
        typer.Option(
            help="auto (the default): learned from the answers; none; or FILE: JSON Schema or choices (.json), a regex."
        ),
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
    from plural.wiring.training import train_school

    said = {
        "purpose": purpose, "instructions": instructions, "test": test, "checker": checker,
        "contract": contract, "rank": rank, "rslora": rslora, "activated": activated, "learning_rate": learning_rate,
        "epochs": epochs, "max_steps": max_steps, "batch_rows": batch_rows, "seed": seed, "compute": compute,
        "licence": licence,
    }  # fmt: skip
    school = read_school(data, name or (), said, replace=replace, resume=resume, base=base, library=library)
    _follow(train_school(school), as_json, [order.name for order in school.orders])


def _follow(stages: Iterable[Stage], as_json: bool, trained: Sequence[str] = ()) -> None:
    """Carries out the work; `trained` are the specialists that are trained by it."""
    from plural.wiring import progress

    if as_json:
        for stage in stages:
            print(json.dumps(stage.to_json()), flush=True)
    elif trained:
        progress.follow_training(stages, trained, err)
    else:
        progress.follow(stages, err)


# ------------------------------------------------------------------------------------------------ scoring, publishing
@app.command(name="eval")
def eval_(
    name: Annotated[str, typer.Argument(help="A specialist's name, or all.")],
    data: Annotated[Path | None, typer.Option(help="Rows to score on. Default: those that it carries.")] = None,
    checker: Annotated[str | None, typer.Option(help="How answers are scored. Default: as in its training.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Score on so many rows at most.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the scores into FILE.svg or FILE.png.")] = None,
    base: BaseOption = None,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score base, specialist, and specialist under its grammar on held-out rows; write it on the card."""
    from plural.evals import drawing
    from plural.wiring.scoring import EvalOrder, evaluate_order

    drawing.check(plot)
    cards: list[Card] = []
    order = EvalOrder(name, data=data, checker=checker, rows=rows, base=base, library=library)
    _follow(evaluate_order(order, cards), as_json)
    if as_json:
        for card in cards:
            print(card.model_dump_json(), flush=True)
    else:
        out.print(drawing.table(cards))
    if plot is not None:
        drawing.save(cards, plot)


@app.command()
def publish(
    what: Annotated[str, typer.Argument(metavar="DIR|NAME[@VERSION]", help="An adapter with its card, or a version.")],
    name: Annotated[str | None, typer.Option(help="The name to publish DIR under. Default: its card's.")] = None,
    data: Annotated[Path | None, typer.Option(help="Rows to compare on. Default: held-out rows of both.")] = None,
    checker: Annotated[str | None, typer.Option(help="How answers to --data are scored.")] = None,
    force: Annotated[bool, typer.Option(help="Publish what is not shown to be not worse; the card says so.")] = False,
    base: BaseOption = None,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a new version take over its name, if it is shown to be not worse than what answers now."""
    from plural.wiring.publishing import PublishOrder
    from plural.wiring.publishing import publish as carry_out

    order = PublishOrder(what, name=name, data=data, checker=checker, force=force, base=base, library=library)
    _follow(carry_out(order), as_json)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The specialist's name.")],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go back to the version that the present one replaced."""
    from plural.wiring.settings import open_library

    back = open_library(library).rollback(name)
    if as_json:
        print(back.card.model_dump_json())
        return
    out.print(Text(f"{name} is version {back.card.version} again: {back.path}"))


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
