"""What an owner offers beside the library, as docs/serving.md says it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plural.agents import Agent
from plural.errors import SettingsError
from plural.testing import ScriptedModel
from plural.wiring.offers import read_offers

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture
def network() -> Any:
    return SimpleNamespace(names=lambda: ["cron"], specialist=lambda _: ScriptedModel(["ordered"]))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "def buyer" in code]
    more = (
        "\nfrom plural.testing import ScriptedModel\n"
        "two, number = [buyer, buyer], 7\n"
        "cron, seller = (Agent(name, ScriptedModel([])) for name in ('cron', 'seller'))\n"
        "both = [order, seller]\n"
    )
    (tmp_path / "shop.py").write_text(block + more)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("shop", None)


def test_the_page_s_agent_is_offered_under_its_name(shop: None, network: Any) -> None:
    offers = read_offers(network, ["shop:buyer"])
    assert list(offers.workers) == ["buyer"]
    assert isinstance(offers.workers["buyer"], Agent)
    assert not offers.tools


def test_tools_are_for_teams_and_agents_are_asked(shop: None, network: Any) -> None:
    offers = read_offers(network, ["shop:both"])
    assert (list(offers.workers), list(offers.tools)) == (["seller"], ["order"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("shop:nothing", "cannot be offered"),
        ("nowhere:buyer", "cannot be offered"),
        ("shop", "cannot be offered"),
        ("shop:number", "which is no agent, team or tool"),
        ("shop:two", "which is no agent, team or tool"),
        ("shop:cron", "cannot be a model id"),
    ],
)
def test_what_cannot_be_offered_is_said(shop: None, network: Any, name: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read_offers(network, [name])


def test_one_name_is_offered_once(shop: None, network: Any) -> None:
    with pytest.raises(SettingsError, match="Two things"):
        read_offers(network, ["shop:buyer", "shop:buyer"])
