"""Draft a team for a task, look at it, change it, let it work."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from plural import sync
from plural.doors.asking import RunView, show
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
    PriceOption,
    budget_of,
    follow,
    open_network,
    out,
    price_of,
)
from plural.errors import PlanError, SettingsError
from plural.types import event_to_json

if TYPE_CHECKING:
    from plural.teams.drafting import Draft, Missing
    from plural.wiring.network import Network

ByOption = Annotated[
    str,
    typer.Option(
        metavar="planner|base|MODULE:NAME",
        help="Who plans, observes, and is whom no specialist suits: the planner specialist and the router (no "
        "observers), the base, or any LangChain chat model, imported from MODULE.",
    ),
]


def draft(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What the team is for.")],
    by: ByOption = "planner",
    save: Annotated[
        Path | None, typer.Option(metavar="TEAM.YAML", help="Write the team there, to edit and run.")
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="If a skill is missing, train a specialist from this JSONL and go on.")
    ] = None,
    settle: Annotated[bool, typer.Option("--settle", help="Let the base do what no specialist can.")] = False,
    no_observers: Annotated[bool, typer.Option("--no-observers", help="Nobody checks team, plan and results.")] = False,
    no_refinement: Annotated[bool, typer.Option("--no-refinement", help="Everybody works once.")] = False,
    no_memory: Annotated[bool, typer.Option("--no-memory", help="Nothing is recalled, written down or kept.")] = False,
    approve_plan: Annotated[
        bool, typer.Option("--approve-plan", help="Its runs wait for your word on the plan, and on changes of it.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of planner and observers at most. Default: 3.")
    ] = None,
    agents: Annotated[int | None, typer.Option(min=1, help="Agents at most. Default: 4.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps at most. Default: 6.")] = None,
    base: BaseOption = None,
    library: LibraryOption = None,
    memory: MemoryOption = None,
    dtype: DtypeOption = None,
    engine: EngineOption = None,
    budget: BudgetOption = None,
    price: PriceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draft a team and its plan for a task, and show both. `plural run` lets it work."""
    from plural.teams.drafting import Missing, Sizes, Ways, write_team
    from plural.wiring.drafting import PLANNER

    sized = {"rounds": rounds, "agents": agents, "steps": steps}
    given = {name: value for name, value in sized.items() if value is not None}
    if by == PLANNER and given:
        raise SettingsError(f"The planner specialist takes no --{next(iter(given))}.", hint="Give another --by.")
    ways: dict[str, Any] = {"observers": not no_observers, "refinement": not no_refinement, "memory": not no_memory}
    ways["approve"] = approve_plan
    if "rounds" in given:
        ways["rounds"] = given.pop("rounds")
    how: dict[str, Any] = {
        "by": by,
        "price": price_of(price),
        "ways": Ways(**ways),
        "sizes": Sizes(**given),
        "may_lack": not settle,
        "budget": budget_of(budget),
    }
    with open_network(base, library, memory=memory, dtype=dtype, engine=engine) as network:
        made = _drafted(network, task, how, as_json)
        if isinstance(made, Missing):
            _have_trained(made, examples, base, library, as_json)
            made = _drafted(network, task, how, as_json)
    if isinstance(made, Missing):
        raise PlanError(
            f"No specialist fits: {made.skill}. {made.why}",
            hint=f"One was trained from {examples}; examples that are nearer to the task would help.",
        )
    if save is not None:
        write_team(made, save)
    if as_json:
        print(made.model_dump_json())
    else:
        _show(made)
        if save is not None:
            out.print(Text(f"plural run {save}", style="dim"))


def run(
    team: Annotated[Path, typer.Argument(metavar="TEAM.YAML", help="As `plural draft --save` writes it.")],
    task: Annotated[
        str | None,
        typer.Argument(metavar="[TASK]", help="Another task than the team's own, for steps that say {task}."),
    ] = None,
    by: ByOption = "planner",
    price: PriceOption = None,
    base: BaseOption = None,
    library: LibraryOption = None,
    memory: MemoryOption = None,
    dtype: DtypeOption = None,
    engine: EngineOption = None,
    journal: JournalOption = JOURNAL,
    as_json: JsonOption = False,
) -> None:
    """Let a team work on its task. The run is in the journal: `plural resume` goes on with it."""
    from plural.teams.drafting import read_team
    from plural.wiring import drafting

    with open_network(base, library, memory=memory, dtype=dtype, engine=engine, journal=journal) as network:
        costs = price_of(price)
        staff = drafting.staff_of(network, by, costs)
        made = read_team(team, staff.specialists, staff.tools)
        told = made.about(task or made.task)
        if not as_json:
            _show(told)
        show(drafting.run(network, made, task, by=by, price=costs), as_json)


def _drafted(network: Network, task: str, how: dict[str, Any], as_json: bool) -> Draft | Missing:
    """Prints what is decided on the way."""
    from plural.teams.drafting import Draft, Missing
    from plural.wiring import drafting

    view = RunView()
    for each in sync.iterate(drafting.drafted(network, task, **how)):
        if isinstance(each, Draft | Missing):
            return each
        if as_json:
            print(json.dumps(event_to_json(each)), flush=True)
        else:
            view.show(each)
    raise AssertionError("a draft ends with a draft or with what is missing")


def _have_trained(
    missing: Missing, examples: Path | None, base: Path | None, library: Path | None, as_json: bool
) -> None:
    """Says what is missing, and has a specialist trained for it. Raises PlanError when there are no examples."""
    from plural.wiring.school import read_school
    from plural.wiring.training import train_school

    if as_json:
        print(json.dumps({"missing": asdict(missing)}), flush=True)
    else:
        out.print(Text.assemble(("missing   ", "bold yellow"), missing.skill, (f"   {missing.why}", "dim")))
    if examples is None:
        raise PlanError(
            f"No specialist fits: {missing.skill}.",
            hint="Give --examples FILE to have one trained, or --settle to let the base do it.",
        )
    school = read_school([examples], said={"purpose": missing.skill}, base=base, library=library)
    follow(train_school(school), as_json, [order.name for order in school.orders])


def _show(draft: Draft) -> None:
    """Team, plan and picture."""
    from plural.teams.drafting import mermaid

    team = Table("agent", "specialist", "for", "tools", box=None, header_style="bold")
    for agent in draft.agents:
        specialist = f"{agent.specialist} ({agent.found})" if agent.found else agent.specialist
        team.add_row(*map(Text, (agent.name, specialist, agent.description or agent.prompt, ", ".join(agent.tools))))
    plan = Table("step", "who", "how", "what", "builds on", "expected", box=None, header_style="bold")
    for number, step in enumerate(draft.steps, start=1):
        how = "together" if step.together else "alone"
        needs = ", ".join(map(str, step.inputs))
        plan.add_row(*map(Text, (str(number), ", ".join(step.agents), how, step.task, needs, step.expects)))
    for table in (team, plan):
        out.print(table)
        out.print()
    for remark in draft.unsettled:
        out.print(Text.assemble(("unsettled ", "bold yellow"), remark))
    out.print(Text(mermaid(draft), style="dim"), soft_wrap=True)
