# ruff: noqa: F401, F811 - fixtures of test_cli
"""An adapter that peft trained and wrote becomes a specialist of the network, with a score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from plural.models.base import load_base
from plural.specialists import Library

from .test_cli import Plural, home, plural


@pytest.fixture
def theirs(home: Path) -> Any:
    """Saves an adapter of peft's for the tiny base; gives its folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def save(name: str, **options: Any) -> Path:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(home / "base")
        wanted = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
        get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **wanted | options)).save_pretrained(str(home / name))
        return home / name

    rows = [{"prompt": f"which {n}?", "answer": ("odd", "even")[n % 2]} for n in range(30)]
    (home / "parity.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (home / "parity.json").write_text('["odd", "even"]')
    return save


@pytest.mark.parametrize("activated", [False, True])
def test_an_adapter_of_pefts_is_published_with_a_card_and_a_score(
    plural: Plural, home: Path, theirs: Any, activated: bool
) -> None:
    tokens = list(load_base(home / "base").chat.invocation()) if activated else None
    folder = theirs(f"peft-{activated}", alora_invocation_tokens=tokens)
    name = f"adopted-{activated}".lower()
    words = ("publish", str(folder), "--name", name, "--test", "parity.jsonl", "--contract", "parity.json")
    code, out, problems = plural(*words, "--purpose", "Parity.", "--licence", "MIT", "--force", "--json")
    assert code == 0, out + problems
    stages = [json.loads(line) for line in out.splitlines()]
    read = next(stage for stage in stages if stage["stage"] == "reading the adapter")
    assert read["facts"] == {"rank": 3, "targets": ["q_proj", "down_proj"]}
    assert ("activated" if activated else "plain") in read["result"]
    specialist = Library(home / "library").get(name)
    specialist.verify()
    card = specialist.card
    assert (card.purpose, card.licence, card.lineage) == ("Parity.", "MIT", None)
    assert card.invocation == tuple(tokens or ())
    assert card.evidence is not None
    assert {who: scores[0].n for who, scores in card.scores.items()} == {"base": 26, "free": 26, "specialist": 26}
    assert "which 0?" in card.examples
    code, out, problems = plural("ask", "--to", name, "which 77?", "--json")
    assert code == 0, problems
    assert json.loads(out.splitlines()[-1])["answer"] in ("odd", "even")
    code, out, problems = plural("eval", name, "--json")
    assert code == 0, problems


def test_an_adapter_without_a_card_must_be_told_about_and_fit(plural: Plural, home: Path, theirs: Any) -> None:
    def told(*words: str) -> str:
        code, out, _ = plural("publish", *words, "--json")
        assert code == 2
        said = json.loads(out.splitlines()[-1])
        return f"{said['message']} {said['hint']}"

    folder = str(theirs("peft"))
    assert "Give the new specialist a --name" in told(folder)
    assert "--test FILE" in told(folder, "--name", "adopted")
    assert "cannot be a specialist's name" in told(folder, "--name", "../adopted", "--test", "parity.jsonl")
    (home / "bad.jsonl").write_text('{"prompt": "a"}')
    assert "line 1" in told(folder, "--name", "adopted", "--test", "bad.jsonl")
    config = json.loads((home / "peft" / "adapter_config.json").read_text())
    (home / "peft" / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    assert "target_modules does not name" in told(folder, "--name", "adopted", "--test", "parity.jsonl")
    assert "purpose is given" in told("nobody", "--purpose", "Parity.")
    assert "adopted" not in Library(home / "library")
