"""Make specialists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plural.doors.terminal import BaseOption, JsonOption, LibraryOption, follow


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
    follow(train_school(school), as_json, [order.name for order in school.orders])
