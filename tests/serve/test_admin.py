"""Adapters that come and go while the server runs, and which version a name stands for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from plural.specialists import Card
from tests.serve.tiny import Running, served, stage_specialist, tiny_network

ASKED: Any = [{"role": "user", "content": "Where is the form?"}]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    network = tiny_network(tmp_path / "home")
    with served(network) as running:
        yield running
    network.engine.check()
    network.close()


def post(running: Running, path: str, /, **body: Any) -> httpx.Response:
    return httpx.post(running.url + path, json=body)


def said(running: Running, model: str) -> str:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
        return str(client.chat.completions.create(model=model, messages=ASKED).choices[0].message.content)


def incoming(running: Running, seed: int, *, card: bool = False) -> Path:
    folder = running.network.library.root / ".incoming" / str(seed)
    stage_specialist(folder, running.network.base_model, seed=seed, name="temp")
    if not card:
        (folder / "specialist.json").unlink()
    return folder


@pytest.mark.parametrize("card", [False, True])
def test_an_adapter_is_loaded_replaced_and_unloaded(running: Running, card: bool) -> None:
    """vLLM 30931: the same name with other weights must never meet the old one's keys and values."""
    first, second = incoming(running, 11, card=card), incoming(running, 12, card=card)
    load = {"lora_name": "temp", "lora_path": f".incoming/{first.name}"}
    assert post(running, "/v1/load_lora_adapter", **load).text == "Success: LoRA adapter 'temp' added successfully."
    before = said(running, "temp")
    assert before != said(running, "base")
    again = load | {"lora_path": str(second)}
    assert post(running, "/v1/load_lora_adapter", **again).status_code == 409
    assert post(running, "/v1/load_lora_adapter", **again, load_inplace=True).status_code == 200
    after = said(running, "temp")
    assert after != before
    assert post(running, "/v1/load_lora_adapter", **load, load_inplace=True).status_code == 200
    assert said(running, "temp") == before
    assert post(running, "/v1/unload_lora_adapter", lora_name="temp").status_code == 200
    assert post(running, "/v1/unload_lora_adapter", lora_name="temp").status_code == 404
    assert first.is_dir(), "unloading deletes nothing"
    with pytest.raises(openai.NotFoundError):
        said(running, "temp")


def test_what_the_library_has_is_not_lent_over(running: Running) -> None:
    folder = incoming(running, 11)
    for name in ("clerk", "base", "network"):
        assert post(running, "/v1/load_lora_adapter", lora_name=name, lora_path=str(folder)).status_code == 409
    assert post(running, "/v1/unload_lora_adapter", lora_name="clerk").status_code == 404


def test_an_adapter_of_another_base_or_a_damaged_one_is_refused(running: Running) -> None:
    folder = incoming(running, 11)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert post(running, "/v1/load_lora_adapter", lora_name="temp", lora_path=str(folder)).status_code == 409
    shutil.rmtree(folder)


def test_a_name_goes_back_and_forth_between_its_versions(running: Running, tmp_path: Path) -> None:
    library = running.network.library
    first = said(running, "clerk")
    other = stage_specialist(tmp_path / "other", running.network.base_model, seed=21, name="clerk")
    library.publish(other, name="clerk", replace=True)
    second = said(running, "clerk")
    assert second != first
    assert said(running, "clerk@1") == first
    found = httpx.get(f"{running.url}/v1/library/clerk").json()
    assert (found["version"], [one["version"] for one in found["versions"]]) == (2, [1])
    assert post(running, "/v1/library/clerk/rollback").json()["version"] == 1
    assert said(running, "clerk") == first
    answer = post(running, "/v1/library/clerk/publish", version=2)
    assert answer.status_code == 409
    assert "not promoted" in answer.json()["error"]["message"]
    answer = post(running, "/v1/library/clerk/publish", version=2, force=True)
    assert answer.json()["version"] == 2
    assert any("forced" in line for line in answer.json()["told"])
    assert said(running, "clerk") == second
    assert post(running, "/v1/library/nobody/rollback").status_code == 404


def test_a_pinned_adapter_stays(running: Running) -> None:
    engine = running.network.engine
    digest = running.network.library.get("clerk").digest
    assert post(running, "/v1/library/clerk/pin").json() == {"id": "clerk", "pinned": True}
    assert digest in engine.stats().adapters
    assert engine.stats().pages_used > 0
    assert httpx.delete(f"{running.url}/v1/library/clerk/pin").json()["pinned"] is False
    assert engine.stats().pages_used == 0
    assert httpx.delete(f"{running.url}/v1/library/clerk/pin").status_code == 409


def test_the_library_shows_no_prompts(running: Running) -> None:
    listed = httpx.get(f"{running.url}/v1/library")
    assert [card["name"] for card in listed.json()["data"]] == ["clerk", "judge"]
    assert "file this paper" not in listed.text


def test_an_adapter_that_was_lent_is_published_as_a_new_version(running: Running) -> None:
    library = running.network.library
    folder = incoming(running, 31, card=True)
    path = f".incoming/{folder.name}"
    post(running, "/v1/load_lora_adapter", lora_name="trial", lora_path=path)
    tried, before = said(running, "trial"), said(running, "clerk")
    assert tried != before
    refused = post(running, "/v1/library/trial/publish", path=path, force=True)
    assert (refused.status_code, "Unload it first" in refused.text) == (409, True)
    answer = post(running, "/v1/library/clerk/publish", path=path)
    assert answer.status_code == 409
    assert "It is kept as version 2" in answer.json()["error"]["message"], "the gate has nothing to compare them on"
    assert said(running, "clerk") == before
    assert said(running, "clerk@2") == tried
    answer = post(running, "/v1/library/clerk/publish", path=path, force=True)
    assert answer.json()["version"] == 3
    assert said(running, "clerk") == tried
    assert "no held-out rows" in library.get("clerk").card.promotion.warning
    assert folder.is_dir(), "it is copied"
    new = post(running, "/v1/library/fresh/publish", path=path, force=True)
    assert (new.status_code, new.json()["version"], said(running, "fresh")) == (200, 1, tried)
    assert post(running, "/v1/library/clerk/rollback").json()["version"] == 1


def test_what_is_no_specialist_of_this_base_is_not_published(running: Running) -> None:
    def publish(name: str, **body: Any) -> httpx.Response:
        return post(running, f"/v1/library/{name}/publish", **body, force=True)

    bare, whole = incoming(running, 32), incoming(running, 33, card=True)
    foreign = whole.with_name("foreign")
    shutil.copytree(whole, foreign)
    card = Card.read(foreign).model_copy(update={"base": "sha256:" + "c" * 64})
    (foreign / "specialist.json").write_text(card.to_json())
    for name, path in (("new", bare), ("new", foreign), ("base", whole), ("network", whole)):
        assert publish(name, path=str(path)).status_code == 409, path
    for body in ({}, {"path": str(whole), "version": 1}):
        assert publish("clerk", **body).json()["error"]["param"] == "version"
    assert [card["name"] for card in httpx.get(f"{running.url}/v1/library").json()["data"]] == ["clerk", "judge"]
