"""A network on a tiny base whose library changes while it is open: who is routed to, and several adapters as one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plural.models.base import load_base
from plural.models.config import MODULES
from plural.specialists import Card, adapter_digest
from plural.specialists.adapter import AdapterConfig, AdapterWeights
from plural.specialists.card import CARD_FILE
from plural.specialists.peft_files import write_adapter
from plural.teams import Routing, Team
from plural.teams.patterns import mixture
from plural.types import Decided, RunFinished, StepStarted
from plural.wiring.network import Network
from tests.engine.tiny import tiny_adapter
from tests.models import tiny

EXAMPLES = {
    "cron": ["every monday at noon", "every day at seven", "each friday evening at six", "every hour at noon"],
    "home": ["turn on the kitchen light", "turn off the hall lamp", "dim the light in the bath", "light off now"],
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and two specialists of it that are in no library yet."""
    folder = tmp_path_factory.mktemp("shelf")
    tiny.save_small(folder / "base")
    base = load_base(folder / "base")
    for seed, (name, examples) in enumerate(EXAMPLES.items()):
        made = tiny_adapter(seed, 4, config=base.config)
        weights = AdapterWeights(name, AdapterConfig(4, 8.0, MODULES), made.tensors)
        write_adapter(folder / name, weights, base_name=base.name)
        card = {
            "name": name,
            "digest": adapter_digest(folder / name),
            "base": base.digest,
            "base_name": base.name,
            "purpose": f"Is for {name}.",
            "examples": examples,
        }
        (folder / name / CARD_FILE).write_text(Card.model_validate(card).to_json())
    return folder


@pytest.fixture
def library(shelf: Path, tmp_path: Path) -> Path:
    shutil.copytree(shelf / "cron", tmp_path / "library" / "cron")
    return tmp_path / "library"


@pytest.fixture
def network(shelf: Path, library: Path, tmp_path: Path) -> Iterator[Network]:
    options: dict[str, Any] = {"starter": False, "cache": shelf / "cache", "max_tokens": 8, "threads": 1}
    with Network.open(base=shelf / "base", library=library, **options) as opened:
        yield opened
        opened.engine.check()


async def test_the_router_is_fitted_again_when_specialists_come_and_go(
    network: Network, shelf: Path, library: Path
) -> None:
    first = await network.router()
    assert first is not None
    assert first.labels == ("base", "cron")
    assert await network.router() is first
    shutil.copytree(shelf / "home", library / "home")
    both = await network.router()
    assert both is not None
    assert both.labels == ("base", "cron", "home")
    (asked,) = await network.reader.aembed([EXAMPLES["home"][0]])
    assert both.route_vector(asked).options[0].value == "home"
    assert {option.value for option in first.route_vector(asked).options} == {"base", "cron"}
    shutil.rmtree(library / "home")
    again = await network.router()
    assert again is not None
    assert json.dumps(again.to_dict()) == json.dumps(first.to_dict())  # as it was kept
    started = [event.agent async for event in network.run(EXAMPLES["home"][0]) if isinstance(event, StepStarted)]
    assert set(started) <= {"base", "cron"}
    shutil.rmtree(library / "cron")
    assert await network.router() is None


async def test_a_mixture_is_blended_by_the_network(network: Network, shelf: Path, library: Path) -> None:
    shutil.copytree(shelf / "home", library / "home")
    members = [network.agent(name) for name in EXAMPLES]
    weights = {"cron": 0.7, "home": 0.3}
    fixed = Team("both", members, mixture(list(EXAMPLES), weights=weights), blend=network.agent)
    said = await fixed.ainvoke("Light at noon.")
    assert said == str((await network.mixture(weights).ainvoke("Light at noon.")).text)
    alone = {name: str((await network.specialist(name).ainvoke("Light at noon.")).text) for name in EXAMPLES}
    assert said not in alone.values()
    router = await network.router()
    assert router is not None
    routed = Team(
        "both",
        members,
        mixture(list(EXAMPLES), least=0.0),
        model=Routing(router, network.reader),
        blend=network.agent,
    )
    events = [event async for event in routed.events("Light at noon.")]
    (decided,) = [event.decision for event in events if isinstance(event, Decided)]
    (started,) = [event.agent for event in events if isinstance(event, StepStarted)]
    assert started == "+".join(f"{option.value}:{option.probability:.3g}" for option in decided.options)
    *_, last = events
    assert isinstance(last, RunFinished)
    assert last.answer == str((await network.mixed(started).ainvoke("Light at noon.")).text)
