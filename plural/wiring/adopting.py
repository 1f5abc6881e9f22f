"""An adapter that was trained elsewhere becomes a specialist: PEFT's directory gets a card, and is scored."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plural.evals import Task, read_contract
from plural.specialists import Card, Specialist, adapter_digest, read_adapter, read_invocation
from plural.specialists.peft_files import CONFIG_FILE, WEIGHTS_FILE, store
from plural.wiring.network import Network
from plural.wiring.scoring import Exam, evaluate, split_shots, write_evidence
from plural.wiring.settings import Settings
from plural.wiring.stages import Stage, named

_MOST_EXAMPLES = 64


@dataclass(frozen=True, slots=True)
class Told:
    """What an adapter does not say of itself. `test` are rows that it was not trained on; `contract` is a file."""

    name: str
    purpose: str = ""
    instructions: str = ""
    test: Path | None = None
    checker: str = "exact"
    contract: Path | None = None
    licence: str = "unspecified"


def adopt(settings: Settings, folder: Path, told: Told) -> Generator[Stage, None, Specialist]:
    """The adapter in `folder` with a card and, where there are test rows, scored on them, in a place of its own.

    Raises SpecialistError for an adapter that is not of this base or cannot be read, DataError for bad rows, and
    GrammarError for a contract that is none.
    """
    task = Task.read(told.test, told.checker, name=told.name) if told.test else None
    with Network.open(**settings.model_dump()) as network:
        base = network.base_model
        staged = settings.resolve(settings.cache) / "adopting" / told.name
        shutil.rmtree(staged, ignore_errors=True)
        config = read_adapter(folder, base.shape).config
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            store(staged / file, (folder / file).read_bytes())
        card = Card(
            name=told.name,
            digest=adapter_digest(staged),
            base=base.digest,
            base_name=base.name,
            purpose=told.purpose,
            instructions=told.instructions,
            output=read_contract(told.contract) if told.contract else None,
            invocation=read_invocation(staged),
            examples=_examples(task),
            licence=told.licence,
        )
        facts: dict[str, Any] = {"rank": config.rank, "targets": list(config.targets)}
        kind = "activated" if card.invocation else "plain"
        line = f"rank {config.rank}, {kind}, on {', '.join(config.targets)}; its shape is that of {base.name}"
        yield Stage("reading the adapter", 1.0, "", line, facts, told.name)
        if task is not None:
            exam = Exam(*split_shots(task))
            card = card.model_copy(update={"evidence": write_evidence(staged, exam, None)})
            with network.library.showing(Specialist(staged, card)):
                card = yield from named(told.name, evaluate(network, Specialist(staged, card), exam))
    card.write(staged)
    return Specialist(staged, card)


def _examples(task: Task | None) -> tuple[str, ...]:
    """What the router learns from: what people ask in the test."""
    rows = task.rows if task else ()
    asked = dict.fromkeys(row.messages[-1].content for row in rows if row.messages[-1].role == "user")
    return tuple(asked)[:_MOST_EXAMPLES]
