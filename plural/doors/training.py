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
            help="JSONL, {'prompt', 'answer'} or {'messages': [...]} a line, or preferences, {'prompt', 'chosen', "
            "'rejected'}: each file becomes a specialist. Or a school.toml with a table for each. All are trained at "
            "once.",
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
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SETTING=A,B,...",
            help="Try these values, all combinations of several, at once; at every rung the worse half stops, and the "
            "best is published.",
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME[@VERSION]", help="Train this specialist further, as it is now."),
    ] = None,
    beta: Annotated[
        float | None, typer.Option(help="Of preferences: how firmly they hold to what was learned before.")
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
        "licence": licence, "sweep": sweep, "from": from_, "beta": beta,
    }  # fmt: skip
    school = read_school(data, name or (), said, replace=replace, resume=resume, base=base, library=library)
    follow(train_school(school), as_json, [order.name for order in school.orders])


def improve(
    name: Annotated[str, typer.Argument(help="A specialist of the library, or a new one that starts from the base.")],
    prompts: Annotated[
        Path,
        typer.Argument(
            metavar="PROMPTS", help="JSONL, {'prompt'} or {'messages'} a line, and whatever the checker wants to know."
        ),
    ],
    checker: Annotated[
        str,
        typer.Option(
            help="What is right: FILE.py:FUNCTION, which is given the line and an answer; a checker's name, which "
            "compares with the line's answer; or reasoning_gym."
        ),
    ],
    samples: Annotated[int, typer.Option(help="Answers to every prompt in a round.")] = 8,
    rounds: Annotated[int, typer.Option(help="Rounds at most; it stops when one does not help.")] = 2,
    temperature: Annotated[float, typer.Option(help="How freely answers are drawn.")] = 1.0,
    keep: Annotated[int, typer.Option(help="Different right answers to one prompt that are learned at most.")] = 4,
    threshold: Annotated[float, typer.Option(help="The least score of a right answer.")] = 1.0,
    test: Annotated[Path | None, typer.Option(help="Prompts to score on. Default: a tenth of PROMPTS.")] = None,
    purpose: Annotated[str | None, typer.Option(help="One sentence: what it is for.")] = None,
    instructions: Annotated[
        str | None, typer.Option(help="Of a new one: a system message that it always sees.")
    ] = None,
    contract: Annotated[Path | None, typer.Option(help="Of a new one: what answers look like, as in train.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of a new one: LoRA rank. Default: 8.")] = None,
    activated: Annotated[bool | None, typer.Option("--activated", help="Of a new one: act on the answer only.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over what was right at most.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps of a round at most.")] = None,
    batch_rows: Annotated[int | None, typer.Option(help="Rows of one step. Default: 8.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the split, the answers, the order and the weights.")] = None,
    compute: Annotated[
        str | None, typer.Option(help="Precision of the frozen base in training: auto (the default), fp32 or bf16.")
    ] = None,
    base: BaseOption = None,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a specialist practise: it answers prompts, learns from the answers that a checker finds right, and again."""
    from plural.train import PassSettings, TrainSettings
    from plural.wiring.improving import ImproveOrder
    from plural.wiring.improving import improve as carry_out

    settings = TrainSettings.of(
        rank=rank, activated=activated, learning_rate=learning_rate, epochs=epochs, max_steps=max_steps,
        batch_rows=batch_rows, seed=seed,
    )  # fmt: skip
    order = ImproveOrder(
        name, prompts, checker, settings, PassSettings.of(compute=compute), samples=samples, rounds=rounds,
        temperature=temperature, keep=keep, threshold=threshold, test=test, purpose=purpose or "",
        instructions=instructions or "", contract=contract, base=base, library=library,
    )  # fmt: skip
    follow(carry_out(order), as_json)
