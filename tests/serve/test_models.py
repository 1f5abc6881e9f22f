"""Which models there are, and the routes beside chat: completions, embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serve.tiny import Running, served, stage_specialist, tiny_network


def test_every_model_is_listed_with_its_parent(client: Any, running: Running) -> None:
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {"network", "base", "clerk", "judge"}
    assert models["base"].parent is None
    assert models["base"].digest == running.network.base_model.digest
    clerk = running.network.library.get("clerk")
    assert models["clerk"].parent == "base"
    assert models["clerk"].digest == clerk.digest
    assert models["clerk"].version == 1
    assert client.models.retrieve("clerk") == models["clerk"]
    assert client.models.retrieve("clerk@1").digest == clerk.digest
    assert client.models.retrieve("clerk:0.5+judge").parent == "base"
    for unknown in ("clark", "clerk@7", "clerk+", "clerk/../judge"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(unknown)
    with pytest.raises(openai.BadRequestError, match="no weight"):
        client.models.retrieve("clerk:x")


def test_a_model_is_asked_by_an_alias(tmp_path: Path) -> None:
    network = tiny_network(tmp_path / "home")
    aliases = {"gpt-4o-mini": "clerk", "text-embedding-3-small": "base"}
    with (
        served(network, aliases=aliases) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none") as client,
    ):
        assert client.models.retrieve("gpt-4o-mini").digest == network.library.get("clerk").digest
        assert {"gpt-4o-mini", "clerk"} <= {model.id for model in client.models.list()}
        asked: Any = [{"role": "user", "content": "Hi"}]
        by_alias = client.chat.completions.create(model="gpt-4o-mini", messages=asked)
        assert by_alias.choices == client.chat.completions.create(model="clerk", messages=asked).choices
        assert by_alias.model == "gpt-4o-mini"
        assert client.embeddings.create(model="text-embedding-3-small", input="Hi").data
        scored = {"prompt": "Hi", "max_tokens": 1, "extra_body": {"prompt_logprobs": 0}}
        assert client.completions.create(model="gpt-4o-mini", **scored).choices[0].prompt_logprobs
        assert client.responses.input_tokens.count(model="gpt-4o-mini", input="Hi").input_tokens
        metrics = httpx.get(f"{running.url}/metrics").text
        assert 'model="clerk"' in metrics
        assert "gpt-4o-mini" not in metrics
    network.close()


def test_a_specialist_is_deleted_and_only_that(tmp_path: Path) -> None:
    network = tiny_network(tmp_path / "home")
    with (
        served(network) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert client.models.delete("clerk").deleted
        assert "clerk" not in network.library
        for other in ("clerk", "base", "network", "nobody"):
            with pytest.raises(openai.NotFoundError):
                client.models.delete(other)
        spare = stage_specialist(network.library.root / ".incoming" / "spare", network.base_model, seed=7, name="spare")
        httpx.post(f"{running.url}/v1/load_lora_adapter", json={"lora_name": "spare", "lora_path": str(spare)})
        with pytest.raises(openai.ConflictError, match="lent"):
            client.models.delete("spare")
        assert (spare / "specialist.json").exists()
    network.close()


# --------------------------------------------------------------------------------------------------------- completions
def test_text_goes_on_from_text(client: Any, running: Running) -> None:
    answer = client.completions.create(model="clerk", prompt="Once upon", max_tokens=6)
    assert answer.object == "text_completion"
    assert answer.usage.prompt_tokens == len("Once upon")
    assert answer.choices[0].finish_reason == "length"
    ids = running.network.base_model.tokenizer.encode("Once upon")
    assert client.completions.create(model="clerk", prompt=ids, max_tokens=6).choices == answer.choices
    streamed = client.completions.create(model="clerk", prompt="Once upon", max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_several_prompts_are_answered_at_once_and_in_their_order(client: Any, running: Running) -> None:
    prompts = ["One", "Two", "Three"]
    before = running.network.engine.stats().steps
    many = client.completions.create(model="base", prompt=prompts, n=2, max_tokens=8, temperature=1.0, seed=5)
    assert running.network.engine.stats().steps - before < 2 * 8 + len(prompts)
    alone = [
        client.completions.create(model="base", prompt=p, n=2, max_tokens=8, temperature=1.0, seed=5) for p in prompts
    ]
    assert [choice.index for choice in many.choices] == list(range(6))
    assert [choice.text for choice in many.choices] == [choice.text for one in alone for choice in one.choices]
    assert many.usage.prompt_tokens == sum(map(len, prompts))
    assert many.usage.completion_tokens == sum(one.usage.completion_tokens for one in alone)


def test_logprobs_in_their_older_form(client: Any) -> None:
    choice = client.completions.create(model="base", prompt="Once", max_tokens=4, logprobs=2).choices[0]
    columns = choice.logprobs
    assert len(columns.tokens) == len(columns.token_logprobs) == len(columns.top_logprobs) == 4
    assert columns.text_offset[0] == 0
    assert columns.text_offset == sorted(columns.text_offset)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"echo": True}, "echo"), ({"suffix": "x"}, "suffix"), ({"best_of": 3}, "best_of"), ({"prompt": ""}, "prompt"),
     ({"prompt": []}, "prompt"), ({"prompt": [999999]}, "999999"), ({"logprobs": 99}, "logprobs")],
)  # fmt: skip
def test_a_completion_refuses_what_it_cannot_do(client: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(openai.BadRequestError, match=named):
        client.completions.create(**{"model": "base", "prompt": "x"} | options)


# ---------------------------------------------------------------------------------------------------------- embeddings
async def test_texts_are_read_as_the_router_reads_them(client: Any, running: Running) -> None:
    texts = ["file this paper", "is this fair"]
    expected = await running.network.base.aembed(texts)
    found = client.embeddings.create(model="base", input=texts)  # the client asks for base64
    plain = client.embeddings.create(model="base", input=texts, encoding_format="float")
    assert [one.embedding for one in plain.data] == expected
    for mine, theirs in zip(found.data, expected, strict=True):
        assert mine.embedding == pytest.approx(theirs, abs=1e-7)
    assert found.usage.prompt_tokens == sum(map(len, texts))
    for wrong in ({"model": "clerk"}, {"input": []}, {"input": ""}, {"dimensions": 3}):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(**{"model": "base", "input": texts} | wrong)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="clerc", input=texts)
