"""What is sent is what /openapi.json says, and what a route does not know in a query is refused by its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from tests.serve.desk import desk
from tests.serve.tiny import Running, served, tiny_network

ROWS = "\n".join(json.dumps({"prompt": f"{n}?", "answer": f"{n}."}) for n in range(40))
ASKED = {"model": "base", "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 3}
TEAM = {"task": "Go.", "agents": [{"name": "one"}], "steps": [{"task": "Go.", "agents": ["one"]}]}
TOOL = {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}}
# What no more is said of than that it is JSON; and what is sent in another form only.
ANYTHING = {"/v1/fine_tuning/jobs/{job_id}/checkpoints", "/v1/responses/{response_id}/cancel",
            "/.well-known/agent-card.json", "/a2a/{model}/agent-card.json"}  # fmt: skip
OTHERWISE = {"/metrics", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/runs/{run_id}/events",
             "/v1/runs/{run_id}/replay"}  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    network = tiny_network(home, max_tokens=8, journal=home / "journal.db")
    with served(network, records=home / "records.sqlite", offers=desk(network, home)) as running:
        yield running
    network.engine.check()
    network.close()


@pytest.fixture(scope="module")
def schema(running: Running) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{running.url}/openapi.json", timeout=60).json()
    return found


@pytest.fixture
def sent(running: Running, schema: dict[str, Any]) -> Callable[..., Any]:
    """What a route answers, held against what is said of it."""

    def ask(method: str, route: str, status: int = 200, *, body: Any = None, **more: Any) -> Any:
        named = {name: more.pop(name) for name in list(more) if f"{{{name}}}" in route}
        answer = httpx.request(method, running.url + route.format(**named), json=body, timeout=60, **more)
        assert answer.status_code == status, answer.text
        made = answer.json()
        said = schema["paths"][route][method.lower()]["responses"][str(status)]["content"]["application/json"]["schema"]
        check = jsonschema.Draft202012Validator(said | {"components": schema["components"]})
        check.validate(made)
        assert not check.is_valid([]), "it would let anything pass"
        if said.get("$ref"):
            for field in set(made) & {"id", "data", "error"}:
                assert not check.is_valid({name: value for name, value in made.items() if name != field})
        return made

    return ask


def test_answers_are_as_the_schema_says(sent: Callable[..., Any]) -> None:
    chat = "/v1/chat/completions"
    sent("POST", chat, body=ASKED | {"logprobs": True, "top_logprobs": 2, "n": 2})
    sent("POST", chat, body=ASKED | {"tools": [TOOL], "tool_choice": "required", "max_tokens": 400})
    stored = sent("POST", chat, body=ASKED | {"store": True, "metadata": {"a": "b"}})
    sent("GET", chat)
    sent("GET", chat + "/{completion_id}", completion_id=stored["id"])
    sent("GET", chat + "/{completion_id}/messages", completion_id=stored["id"])
    sent("POST", chat + "/{completion_id}", completion_id=stored["id"], body={"metadata": {"a": "c"}})
    sent("DELETE", chat + "/{completion_id}", completion_id=stored["id"])
    sent("GET", chat + "/{completion_id}", 404, completion_id=stored["id"])
    text = {"model": "base", "prompt": "Once", "max_tokens": 3}
    sent("POST", "/v1/completions", body=text | {"logprobs": 2})
    sent("POST", "/v1/completions", body=text | {"return_token_ids": True, "prompt_logprobs": 0})
    sent("POST", "/v1/completions", 400, body=text | {"suffix": "x"})
    for form in ("float", "base64"):
        sent("POST", "/v1/embeddings", body={"model": "base", "input": "x", "encoding_format": form})
    asked = {"model": "base", "input": "Where?", "max_output_tokens": 3}
    response = sent("POST", "/v1/responses", body=asked | {"top_logprobs": 1})
    sent("GET", "/v1/responses/{response_id}", response_id=response["id"])
    sent("GET", "/v1/responses/{response_id}/input_items", response_id=response["id"])
    sent("DELETE", "/v1/responses/{response_id}", response_id=response["id"])


def test_models_and_the_library_are_as_the_schema_says(sent: Callable[..., Any]) -> None:
    sent("GET", "/v1/models")
    sent("GET", "/v1/models/{model}", model="clerk")
    sent("GET", "/v1/library")
    sent("GET", "/v1/library/{name}", name="clerk")
    sent("POST", "/v1/library/{name}/pin", name="clerk")
    sent("DELETE", "/v1/library/{name}/pin", name="clerk")
    sent("POST", "/v1/library/{name}/publish", 409, name="clerk", body={"version": 7})
    sent("GET", "/health")
    sent("GET", "/ready")


def test_training_is_as_the_schema_says(sent: Callable[..., Any]) -> None:
    file = sent("POST", "/v1/files", files={"file": ("rows.jsonl", ROWS)}, data={"purpose": "fine-tune"})
    sent("GET", "/v1/files")
    sent("GET", "/v1/files/{file_id}", file_id=file["id"])
    asked = {"model": "base", "training_file": file["id"], "hyperparameters": {"n_epochs": 1000}}
    job = sent("POST", "/v1/fine_tuning/jobs", body=asked)
    sent("GET", "/v1/fine_tuning/jobs")
    one = "/v1/fine_tuning/jobs/{job_id}"
    sent("GET", one, job_id=job["id"])
    for act in ("pause", "resume", "cancel"):
        sent("POST", f"{one}/{act}", job_id=job["id"])
    sent("GET", f"{one}/events", job_id=job["id"])
    sent("DELETE", "/v1/files/{file_id}", file_id=file["id"])


def test_runs_and_teams_are_as_the_schema_says(sent: Callable[..., Any], running: Running) -> None:
    for model in ("clerk", "broken"):
        run = sent("POST", "/v1/runs", body={"model": model, "input": "Go.", "metadata": {"a": "b"}})
        httpx.get(f"{running.url}/v1/runs/{run['id']}/events", timeout=60)  # until it is over
        sent("GET", "/v1/runs/{run_id}", run_id=run["id"])
    sent("POST", "/v1/runs/{run_id}/fork", run_id=run["id"], body={"at": 0})
    sent("POST", "/v1/runs/{run_id}/approve", 409, run_id=run["id"], body={})
    sent("GET", "/v1/runs")
    team = sent("POST", "/v1/teams/draft", body={"task": "is this fair", "settle": True})["team"]
    sent("POST", "/v1/teams/{name}", name="court", body=team)
    sent("GET", "/v1/teams")
    sent("GET", "/v1/teams/{name}", name="court")
    sent("DELETE", "/v1/teams/{name}", name="court")


def test_every_answer_in_json_is_described(schema: dict[str, Any]) -> None:
    for path, methods in schema["paths"].items():
        for method, said in methods.items():
            told = said["responses"]["200"]["content"].get("application/json", {}).get("schema")
            known = path in ANYTHING if path not in OTHERWISE else len(said["responses"]["200"]["content"]) == 2
            assert known or told is None or "$ref" in told, f"{method} {path}"
    form = schema["paths"]["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["required"]) == {"file", "purpose"}


def test_a_query_parameter_that_is_not_known_is_named(running: Running, schema: dict[str, Any]) -> None:
    asked = [(path, method) for path, methods in schema["paths"].items() for method in methods]
    with httpx.Client(base_url=running.url, timeout=60) as client:
        for path, method in asked:
            if not path.startswith("/v1/"):
                continue
            place = path.replace("{", "").replace("}", "")
            for query, named in (("no_such=1", "no_such"), ("limit[a]=1", "limit[a]"), ("include[]=x", "include[]")):
                answer = client.request(method.upper(), f"{place}?{query}")
                assert answer.status_code == 400, f"{method} {path}"
                assert answer.json()["error"]["param"] == named
                assert f"{named} is not supported" in answer.json()["error"]["message"]
        assert client.get("/health?no_such=1").status_code == 200, "only under /v1"
        assert client.get("/v1/chat/completions?metadata[a]=b&limit=3").status_code == 200
        many = "&".join(f"metadata[{number}]=x" for number in range(17))
        assert client.get(f"/v1/chat/completions?{many}").json()["error"]["param"] == "metadata"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "base", "input": "Go.", "team": None}, 200),
        ({"team": TEAM}, 200),
        ({"input": "Go."}, 400),
        ({"model": "base"}, 400),
        ({"model": "base", "input": "Go.", "team": TEAM}, 400),
    ],
)
def test_what_a_run_needs_is_in_the_schema(
    running: Running, schema: dict[str, Any], body: dict[str, Any], status: int
) -> None:
    said = schema["paths"]["/v1/runs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    check = jsonschema.Draft202012Validator(said | {"components": schema["components"]})
    assert check.is_valid(body) == (status == 200)
    assert httpx.post(f"{running.url}/v1/runs", json=body, timeout=60).status_code == status
