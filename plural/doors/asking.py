"""Ask the network, once or in a conversation, and see how it answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel
from rich.text import Text

from plural.doors.terminal import (
    JOURNAL,
    BaseOption,
    BudgetOption,
    DtypeOption,
    EngineOption,
    JournalOption,
    JsonOption,
    LibraryOption,
    MemoryOption,
    budget_of,
    complain,
    err,
    open_network,
    out,
)
from plural.errors import UserError
from plural.types import (
    Decided,
    Event,
    LimitReached,
    Planned,
    Question,
    Routed,
    RunFinished,
    StepStarted,
    TextDelta,
    ToolCalled,
    ToolReturned,
    event_to_json,
)

if TYPE_CHECKING:
    from plural.teams import Cost


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
    engine: EngineOption = None,
    journal: JournalOption = JOURNAL,
    budget: BudgetOption = None,
    approve_plan: Annotated[
        bool, typer.Option("--approve-plan", help="Wait for your word on a plan before it is carried out.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask the network: it picks the specialists, calls tools and answers, and shows how."""
    limits = budget_of(budget)
    with open_network(base, library, memory=memory, dtype=dtype, engine=engine, journal=journal) as network:
        for question in questions:
            request = sys.stdin.read().strip() if question == "-" else question
            if not as_json:
                out.rule(Text(request, style="bold"), align="left", style="dim")
            show(network.stream(request, to=to, budget=limits, approve=approve_plan), as_json)


def chat(
    base: BaseOption = None,
    library: LibraryOption = None,
    to: Annotated[str | None, typer.Option(help="Talk to this specialist (or 'base', or a:0.7+b:0.3) only.")] = None,
    memory: MemoryOption = None,
    dtype: DtypeOption = None,
    engine: EngineOption = None,
    journal: JournalOption = JOURNAL,
    as_json: JsonOption = False,
) -> None:
    """Talk to the network; it keeps the conversation. An empty line or Ctrl-D ends it."""
    with open_network(base, library, memory=memory, dtype=dtype, engine=engine, journal=journal) as network:
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
                show(conversation.stream(line), as_json)
            except UserError as error:
                complain(error)


def show(events: Iterable[Event], as_json: bool) -> None:
    """Prints a run as it happens. Stopped, it says how to go on."""
    run = getattr(events, "run", None)
    view = RunView(run)
    try:
        for event in events:
            if as_json:
                print(json.dumps(event_to_json(event)), flush=True)
            else:
                view.show(event)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Stopped. `plural resume {run}` goes on." if run else "") from None


class RunView:
    """Prints a run as it happens: who was chosen, what each was asked and said, tools, the answer.

    Steps run at once, the terminal has one open line: while a step speaks, what happens in the others is held."""

    def __init__(self, run: str | None = None) -> None:
        self._run = run
        self._speaking: int | None = None
        self._held: list[Event] = []
        self._planned = False
        self._shown: list[Event] = []  # without the texts

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
        self._shown.append(event)
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
            case Question():
                out.print(Text.assemble(_who(event.agent), ("asks    ", "bold yellow"), event.text))
                out.print(Text(f"{_label('')}plural resume {self._run} --answer ...", style="dim"))
            case Decided():
                value = event.decision.value
                said = (
                    "; ".join(f"{name}: {text}" for name, text in value.items()) if isinstance(value, dict) else value
                )
                out.print(Text.assemble(_who(event.by), ("decides ", "magenta"), f"{event.about}: {said}"))
            case LimitReached():
                said = f"has used up its {event.limit} ({event.value:g})"
                out.print(Text.assemble(_who(event.agent), ("stops   ", "red"), said))
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
        from plural.teams import Cost, costs

        spent = costs(self._shown)
        if len(spent) > 1:
            for who, cost in spent.items():
                out.print(Text(f"{_label(who)}cost    {_told(cost)}", style="dim"))
        whole = f"{_told(Cost(event.usage, event.money))}, {event.seconds:.1f} s"
        out.print(Panel(Text(event.answer), title="answer", subtitle=f"[dim]{whole}[/dim]"))


def _told(cost: Cost) -> str:
    usage, money = cost.usage, f", {cost.money:.6g} spent" if cost.money else ""
    return f"{usage.prompt} prompt ({usage.cached} cached) + {usage.completion} new tokens{money}"


def _who(agent: str) -> tuple[str, str]:
    return (_label(agent), "green")


def _label(word: str) -> str:
    """The first column, wide enough for most names and never without a gap behind it."""
    return f"{word:<9} "
