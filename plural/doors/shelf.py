"""The library: its specialists, what they score, which version answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from plural.doors.terminal import BaseOption, JsonOption, LibraryOption, follow, out

if TYPE_CHECKING:
    from plural.specialists import Card


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
    follow(evaluate_order(order, cards), as_json)
    if as_json:
        for card in cards:
            print(card.model_dump_json(), flush=True)
    else:
        out.print(drawing.table(cards))
    if plot is not None:
        drawing.save(cards, plot)


def publish(
    what: Annotated[
        str,
        typer.Argument(metavar="DIR|NAME[@VERSION]", help="An adapter, as PEFT saves it or with a card; a version."),
    ],
    name: Annotated[str | None, typer.Option(help="The name to publish DIR under. Default: its card's.")] = None,
    purpose: Annotated[str | None, typer.Option(help="Without a card: one sentence, what it is for.")] = None,
    instructions: Annotated[
        str | None, typer.Option(help="Without a card: the system message it was trained with.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Without a card: rows that it was not trained on, to score it on and to keep.")
    ] = None,
    contract: Annotated[Path | None, typer.Option(help="Without a card: what answers look like, as in train.")] = None,
    licence: Annotated[str | None, typer.Option(help="Without a card: its licence.")] = None,
    data: Annotated[Path | None, typer.Option(help="Rows to compare on. Default: held-out rows of both.")] = None,
    checker: Annotated[str | None, typer.Option(help="How answers to --data or --test are scored.")] = None,
    force: Annotated[bool, typer.Option(help="Publish what is not shown to be not worse; the card says so.")] = False,
    base: BaseOption = None,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a new version take over its name, if it is shown to be not worse than what answers now."""
    from plural.wiring.publishing import PublishOrder
    from plural.wiring.publishing import publish as carry_out

    given = {
        "purpose": purpose, "instructions": instructions, "test": test, "contract": contract, "licence": licence
    }  # fmt: skip
    told = {key: value for key, value in given.items() if value is not None}
    order = PublishOrder(
        what, name=name, told=told, data=data, checker=checker, force=force, base=base, library=library
    )
    follow(carry_out(order), as_json)


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
