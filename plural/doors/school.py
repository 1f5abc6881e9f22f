"""Make the starter library again, from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plural.doors.terminal import BaseOption, JsonOption, follow


def school(
    skills: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SKILL...]", help="Which skills. Default: all of the recipe whose rows can be made here."
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Folder of a recipe. Default: recipes/starter of this clone.")
    ] = None,
    out_: Annotated[
        Path | None, typer.Option("--out", help="The library to make. Default: the starter library.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where data, checkpoints and adapters lie. Default: in Plural's cache.")
    ] = None,
    form: Annotated[str | None, typer.Option(help="Teach answers in this form: direct, steps or tool.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Score on so many rows of each test at most.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Train no longer than this.")] = None,
    activated: Annotated[bool, typer.Option("--activated", help="Only activated adapters (aLoRA).")] = False,
    twins: Annotated[
        bool, typer.Option("--twins", help="Train each plain and activated, and publish the better one.")
    ] = False,
    generalist: Annotated[
        bool,
        typer.Option(
            "--generalist", help="Instead, train what specialists are compared with: one LoRA for all skills."
        ),
    ] = False,
    same_rank: Annotated[
        bool,
        typer.Option(
            "--same-rank", help="With --generalist: only that of one specialist's rank, not that of all together."
        ),
    ] = False,
    evidence: Annotated[
        bool,
        typer.Option(
            "--evidence",
            help="Train nothing: put held-out rows beside the specialists that are there, and score them without "
            "their grammars. Default: all that are there.",
        ),
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted school stopped.")] = False,
    tokens_at_once: Annotated[
        int | None, typer.Option(min=1, help="Tokens trained on together: memory, not the result. Default: 2048.")
    ] = None,
    prompt_megabytes: Annotated[
        int | None,
        typer.Option(min=0, help="Memory for the states of prompts that activated adapters share. Default: 1024."),
    ] = None,
    compute: Annotated[
        str | None, typer.Option(help="Precision of the frozen base in training: auto (the default), fp32 or bf16.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where the base lives: cpu, cuda, cuda:1.")] = None,
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Retrain the starter library from nothing, all skills at once; score it beside the base and write the table."""
    from plural.errors import SettingsError
    from plural.specialists import Library
    from plural.train import PassSettings
    from plural.wiring.generalist import NAMES, SAME_RANK, train_generalists
    from plural.wiring.recipe import read_recipe
    from plural.wiring.retraining import Retraining, add_evidence, retrain
    from plural.wiring.settings import STARTER, read_settings

    if twins and activated:
        raise SettingsError("--twins trains plain and activated adapters; --activated only these.", hint="Give one.")
    if generalist and (twins or rows or out_ is None):
        raise SettingsError(
            "--generalist goes with --out, and without --twins and --rows.",
            hint="The generalists are two adapters beside the library, not in it, and are not scored here.",
        )
    if same_rank and not generalist:
        raise SettingsError("--same-rank is one of two generalists.", hint="Give --generalist, too.")
    if evidence and (generalist or twins or form or rows or max_steps or activated):
        raise SettingsError("--evidence trains nothing.", hint="Leave out how to train and how much to score.")
    read = read_recipe(recipe)
    if evidence and not skills:
        skills = [name for name in Library(out_ or STARTER).names() if name in read.skills]
    settings = read_settings()
    order = Retraining(
        read,
        read.chosen(skills or (), form),
        out_ or STARTER,
        work or settings.resolve(settings.cache) / "retraining",
        PassSettings.of(tokens_at_once=tokens_at_once, prompt_megabytes=prompt_megabytes, compute=compute),
        form=form,
        left_out=() if skills else read.left_out,
        rows=rows,
        max_steps=max_steps,
        activated=True if activated else None,
        twins=twins,
        resume=resume,
        base=base,
        device=device,
    )
    if evidence:
        follow(add_evidence(order), as_json, order.names)
    elif generalist:
        chosen = (SAME_RANK,) if same_rank else NAMES
        follow(train_generalists(order, chosen), as_json, chosen)
    else:
        follow(retrain(order), as_json, order.names)
