"""What openai-python's tests suppose to be there, made the moment before it is asked for.

They were written for a mock that answers to any id. Ours is a real server, so that there must be a stored completion
before one can be retrieved: it is made here, through the server's own routes, and its id takes the place of the made-up
one in the path (and, for files that a job is trained on, in the body). Nothing else of a request is touched, and no
answer.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plural.wiring.network import Network
from tests.serve.tiny import stage_specialist

ALIASES = {name: "base" for name in ("gpt-6-astra", "gpt-3.5-turbo-instruct", "text-embedding-3-small", "gpt-4o-mini")}
ROWS = "".join(json.dumps({"prompt": f"{n} and {n % 7}?", "answer": f"sum {n + n % 7}."}) + "\n" for n in range(40))
_FILE = "file-abc123"
_ENDING = ("/cancel", "/pause", "/resume")
_MADE_UP = re.compile(
    r"^/v1/(?:(chat/completions)/(completion_id)|(files)/(file_id)|(responses)/(resp\w*_\w+)"
    r"|(fine_tuning/jobs)/(ft-\w+)|(models)/(ft:[\w:-]+|judge)|(runs)/(run_supposed)|(teams)/(clerk))(/\w+)?$"
)


class Supposing:
    """Around the server's app."""

    def __init__(self, app: ASGIApp, network: Network, folder: Path) -> None:
        self._app = app
        self._network = network
        self._folder = folder
        self._made = 0
        transport = httpx.ASGITransport(app=app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://localhost/v1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if found := _MADE_UP.match(scope["path"]):
            kind, name, *rest = (group for group in found.groups() if group is not None)
            path = scope["path"].replace(name, await self._make(kind, name, rest[0] if rest else ""))
            scope = {**scope, "path": path, "raw_path": path.encode()}
        elif scope["path"] == "/v1/fine_tuning/jobs" and scope["method"] == "POST":
            receive, scope = await self._with_file(scope, receive)
        await self._app(scope, receive, send)

    async def _make(self, kind: str, name: str, action: str) -> str:
        match kind:
            case "runs":
                return await self._run(action)
            case "teams":
                return await self._team(name)
            case "chat/completions":
                asked = {"messages": [{"role": "user", "content": "Hi"}], "store": True}
                return await self._post("chat/completions", {"model": "base", "max_tokens": 2} | asked)
            case "responses":
                return await self._post("responses", {"model": "base", "input": "Hi", "max_output_tokens": 16})
            case "files":
                return await self._upload()
            case "fine_tuning/jobs":
                # One that is to be ended by the test must not have ended before; all others shall not take long.
                asked: dict[str, Any] = {"model": "base", "training_file": await self._upload()}
                asked |= {"hyperparameters": {"n_epochs": 1000} if action in _ENDING else {"max_steps": 1}}
                job = await self._post("fine_tuning/jobs", asked)
                if action == "/resume":
                    await self._post(f"fine_tuning/jobs/{job}/pause", {})
                return job
        return self._specialist(name)

    def _specialist(self, name: str) -> str:
        """The judge, who may have been deleted; for a made-up name another one each time."""
        self._made += 1
        if name != "judge":
            name = f"supposed-{self._made}"
        if name not in self._network.library:
            folder = self._folder / f"supposed-{self._made}"
            staged = stage_specialist(folder, self._network.base_model, seed=self._made, name=name)
            self._network.library.publish(staged, name=name, replace=False)
        return name

    async def _run(self, action: str) -> str:
        """One that waits for a person, where one shall be answered; else one that is over."""
        asks = action in ("/approve", "/deny", "/answer", "/cancel", "/resume")
        asked = {"model": "payer", "input": "Pay 3"} if asks else {"model": "clerk", "input": "Hi"}
        run = await self._post("runs", asked)
        while (await self._client.get(f"runs/{run}")).json()["status"] not in ("waiting", "finished"):
            await asyncio.sleep(0.005)
        if action == "/resume":
            await self._post(f"runs/{run}/cancel", {})
        return run

    async def _team(self, name: str) -> str:
        drafted = (await self._client.post("teams/draft", json={"task": "file this paper", "settle": True})).json()
        await self._post(f"teams/{name}", drafted["team"])
        return name

    async def _upload(self) -> str:
        form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("rows.jsonl", ROWS)}}
        return _id(await self._client.post("files", **form))

    async def _post(self, path: str, body: dict[str, Any]) -> str:
        return _id(await self._client.post(path, json=body))

    async def _with_file(self, scope: Scope, receive: Receive) -> tuple[Receive, Scope]:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        body = body.replace(_FILE.encode(), (await self._upload()).encode())
        headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
        return _once(body, receive), {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}


def _once(body: bytes, receive: Receive) -> Callable[[], Any]:
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return left.pop() if left else await receive()

    return read


def _id(answer: httpx.Response) -> str:
    answer.raise_for_status()
    return str(answer.json()["id"])
