"""The requests that Open WebUI makes of a server, as plain HTTP: its list of models, a streamed chat, its own tasks.

Open WebUI itself is too heavy for a test. The fields are those of its routers/openai.py and routers/tasks.py; what its
back end keeps for itself (`metadata`, `chat_id`, `features`) never reaches a server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serve.tiny import served, tiny_network

CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "file this paper"},
    {"role": "assistant", "content": "Done."},
    {"role": "user", "content": "who is right"},
]
# What a user may set beside a chat, "Advanced Params".
PARAMS: dict[str, Any] = {
    "temperature": 0.8, "top_p": 0.9, "max_tokens": 8, "seed": 42, "stop": ["END"],
    "frequency_penalty": 0.1, "presence_penalty": 0.1, "logit_bias": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    network = tiny_network(tmp_path_factory.mktemp("home"), max_tokens=8)
    headers = {"Authorization": "Bearer the key", "X-OpenWebUI-User-Name": "Ann", "X-OpenWebUI-Chat-Id": "c1"}
    with (
        served(network, key="the key") as running,
        httpx.Client(base_url=f"{running.url}/v1", headers=headers) as client,
    ):
        yield client
    network.engine.check()
    network.close()


def test_all_models_are_in_its_list(client: httpx.Client) -> None:
    models = client.get("/models").json()
    assert {"network", "base", "clerk", "judge"} <= {model["id"] for model in models["data"]}
    assert "error" not in models


# A specialist's contract says where its answer ends: stop strings beside it are refused.
CONTRACTED = {name: value for name, value in PARAMS.items() if name != "stop"}


@pytest.mark.parametrize(("model", "params"), [("network", {}), ("base", PARAMS), ("judge", CONTRACTED)])
def test_a_chat_is_streamed_and_its_usage_told_at_the_end(
    client: httpx.Client, model: str, params: dict[str, Any]
) -> None:
    asked = {"stream": True, "model": model, "messages": CHAT, "stream_options": {"include_usage": True}, **params}
    with client.stream("POST", "/chat/completions", json=asked) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    *chunks, last = map(json.loads, lines)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    "task",
    [
        pytest.param({"max_completion_tokens": 1000}, id="title"),
        pytest.param({}, id="tags"),
        pytest.param({}, id="follow-up"),
    ],
)
def test_its_own_tasks_are_answered_by_the_base(client: httpx.Client, task: dict[str, Any]) -> None:
    wish = '### Task:\nGenerate a title.\n### Output:\nJSON format: { "title": "..." }\n<chat_history>\nUSER: Hi\n'
    asked = {"model": "base", "messages": [{"role": "user", "content": wish}], "stream": False, **task}
    answer = client.post("/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    assert isinstance(answer.json()["choices"][0]["message"]["content"], str)
    refused = client.post("/chat/completions", json=asked | {"model": "network"})
    if task:
        assert refused.status_code == 400
        assert "max_tokens" in refused.json()["error"]["message"]
    else:
        assert refused.status_code == 200
