"""What the server does when there is too much, when a client leaves, and when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from plural.serve.keys import make_key, write_keys
from tests.serve.tiny import Running, served, tiny_network

LONG: Any = {
    "model": "base",
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "max_tokens": 3000,
    "extra_body": {"ignore_eos": True},
}


@pytest.fixture
def network(tmp_path: Path) -> Any:
    network = tiny_network(tmp_path / "home", engine={"kv_tokens": 65_536})
    yield network
    network.engine.check()
    assert network.engine.stats().pages_used == 0
    network.close()


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.005)


def asking(running: Running, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(**{"base_url": f"{running.url}/v1", "api_key": "none", "max_retries": 0} | options)


async def test_a_client_that_leaves_frees_its_pages(network: Any) -> None:
    with served(network) as running:
        async with asking(running) as client:
            stream = await client.chat.completions.create(**LONG, stream=True)
            await anext(stream)
            assert network.engine.stats().pages_used > 0
            await stream.close()
            await until(lambda: network.engine.stats().pages_used == 0)
            waits = asyncio.create_task(client.chat.completions.create(**LONG))
            await until(lambda: network.engine.stats().pages_used > 0)
            waits.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waits
            await until(lambda: network.engine.stats().pages_used == 0)
            await until(lambda: running.server.service.gate.inside == 0)
        text = httpx.get(f"{running.url}/metrics").text
        assert "plural_disconnects_total 2.0" in text


async def test_all_of_a_crowd_of_which_a_third_leaves_are_served_and_nothing_leaks(network: Any) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> int:
        asked = LONG | {"max_tokens": 20 + number % 7, "model": ("base", "clerk")[number % 2]}
        stream = await client.chat.completions.create(**asked, stream=True)
        seen = 0
        async for chunk in stream:
            seen += bool(chunk.choices[0].finish_reason)
            if number % 3 == 0:
                await stream.close()
                return -1
        return seen

    with served(network, max_inside=200) as running:
        async with asking(running) as client:
            ends = await asyncio.gather(*(one(client, number) for number in range(60)))
        assert ends.count(-1) == 20
        assert ends.count(1) == 40
        await until(lambda: running.server.service.gate.inside == 0)
        await until(lambda: network.engine.stats().pages_used == 0)


async def test_one_too_many_is_told_when_to_come_again(network: Any) -> None:
    with served(network, max_inside=2) as running:
        async with asking(running) as client:
            streams = [await client.chat.completions.create(**LONG, stream=True) for _ in range(2)]
            with pytest.raises(openai.RateLimitError) as caught:
                await client.chat.completions.create(**LONG)
            assert int(caught.value.response.headers["retry-after"]) >= 1
            assert caught.value.type == "rate_limit_error"
            with pytest.raises(openai.BadRequestError, match="at most 2"):
                await client.chat.completions.create(**LONG, n=3)
            await streams[0].close()
            await until(lambda: running.server.service.gate.inside == 1)
            await client.chat.completions.create(**LONG | {"max_tokens": 1})
            await streams[1].close()


async def test_a_key_has_its_share_and_another_still_gets_in(network: Any, tmp_path: Path) -> None:
    (mine, one), (theirs, other) = make_key(["use"]), make_key(["use"])
    write_keys(tmp_path / "keys.json", [one, other])
    with served(network, max_per_key=1, keys=tmp_path / "keys.json") as running:
        async with asking(running, api_key=mine) as client, asking(running, api_key=theirs) as second:
            stream = await client.chat.completions.create(**LONG, stream=True)
            with pytest.raises(openai.RateLimitError, match="This API key"):
                await client.chat.completions.create(**LONG)
            answer = await second.chat.completions.create(**LONG | {"max_tokens": 1})
            assert answer.usage.completion_tokens == 1
            assert running.server.service.gate.inside == 1, "the first one is still inside"
            await stream.close()
            await until(lambda: running.server.service.gate.inside == 0)
            await client.chat.completions.create(**LONG | {"max_tokens": 1})


async def test_an_answer_that_takes_too_long_ends(network: Any) -> None:
    with served(network, timeout=0.05) as running:
        async with asking(running) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(**LONG)
            assert caught.value.status_code == 504
            with pytest.raises(openai.APIError, match="not whole after"):
                async for _ in await client.chat.completions.create(**LONG, stream=True):
                    pass


async def test_a_deadline_that_cannot_be_met_is_no_reason_to_ask_again(network: Any) -> None:
    with served(network) as running:
        async with asking(running, max_retries=2) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(**LONG | {"extra_body": {"deadline": 1e-9}})
            assert caught.value.status_code == 504
            assert caught.value.code == "deadline_exceeded"
        assert network.engine.stats().submitted == 1, "the client did not try again"


async def test_what_is_under_way_is_finished_when_it_drains(network: Any) -> None:
    with served(network) as running:
        async with asking(running) as client:
            stream = await client.chat.completions.create(**LONG | {"max_tokens": 60}, stream=True)
            await anext(stream)
            running.listener.drain()
            ends = [chunk.choices[0].finish_reason async for chunk in stream]
            assert ends[-1] == "length"
            with pytest.raises(openai.APIConnectionError):
                await asyncio.wait_for(asked_until_refused(client), 30)


async def asked_until_refused(client: openai.AsyncOpenAI) -> None:
    """The listener looks ten times a second whether it shall end."""
    while True:
        await client.models.list()
        await asyncio.sleep(0.05)


def test_what_it_counts_and_logs(network: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "plural.access")
    with served(network) as running, openai.OpenAI(base_url=f"{running.url}/v1", api_key="sk-top-secret") as client:
        answer = client.chat.completions.create(
            model="clerk",
            messages=[{"role": "user", "content": "a private matter"}],
            max_tokens=3,
            user="ann",
            extra_headers={"X-Request-Id": "mine-1"},
        )
        assert answer._request_id == "mine-1"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])
        long: Any = [{"role": "user", "content": "a long preface " * 8}]
        usages = [client.chat.completions.create(model="base", messages=long, max_tokens=1).usage for _ in range(2)]
        text = httpx.get(f"{running.url}/metrics").text
    assert 'plural_tokens_total{kind="completion",model="clerk"} 3.0' in text
    cached = usages[1].prompt_tokens_details.cached_tokens
    assert cached > 0
    assert f'plural_tokens_total{{kind="cached",model="base"}} {float(cached)}' in text
    assert 'plural_first_token_seconds_count{model="clerk"} 1.0' in text
    assert 'plural_token_gap_seconds_count{model="clerk"} 1.0' in text
    assert "plural_token_gap_seconds_bucket" in text
    assert 'plural_token_gap_seconds_count{model="base"}' not in text, "there is no gap in one token"
    assert 'plural_request_seconds_count{model="clerk"} 1.0' in text
    assert 'plural_request_seconds_count{model="base"} 2.0' in text
    assert "plural_engine_waiting 0.0" in text
    assert 'plural_http_requests_total{method="POST",route="/v1/chat/completions",status="404"} 1.0' in text
    assert "plural_engine_pages_used 0.0" in text
    assert "nobody" not in text
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "plural.access"]
    first = next(line for line in lines if line["request"] == "mine-1")
    assert first["status"] == 200
    assert first["model"] == "clerk"
    assert first["completion"] == 3
    assert first["user"] == "ann"
    assert "private" not in caplog.text
    assert "top-secret" not in caplog.text
