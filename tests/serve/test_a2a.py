"""A2A by the official sdk's own client against the real server: tasks are runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from plural.serve.keys import make_key, write_keys
from tests.serve.desk import desk, world
from tests.serve.tiny import Running, served, tiny_network

pytest.importorskip("a2a", reason="a2a-sdk is not installed: plural[a2a].")

from a2a.client import ClientConfig, create_client
from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    SubscribeToTaskRequest,
    TaskPushNotificationConfig,
    TaskState,
)

Agents = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a2a")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    network = tiny_network(folder / "home", max_tokens=8, journal=folder / "journal.db")
    keys = {"ann": make_key(["use"]), "bob": make_key(["use"])}
    write_keys(folder / "keys.json", [key for _, key in keys.values()])
    with served(network, offers=desk(network, folder), keys=folder / "keys.json") as running:
        running.server.secrets = {name: secret for name, (secret, _) in keys.items()}  # type: ignore[attr-defined]
        yield running
    network.engine.check()
    network.close()


@pytest.fixture
async def agent(running: Running) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """The sdk's client of a model, found by its card."""
    opened: list[httpx.AsyncClient] = []

    async def found(model: str | None = None, *, who: str = "ann", streaming: bool = True) -> Any:
        key = running.server.secrets[who]  # type: ignore[attr-defined]
        opened.append(httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=30))
        path = None if model is None else f"a2a/{model}/agent-card.json"
        config = ClientConfig(httpx_client=opened[-1], streaming=streaming)
        return await create_client(running.url, config, relative_card_path=path)

    yield found
    for http in opened:
        await http.aclose()


def saying(text: str, **message: Any) -> SendMessageRequest:
    said = Message(message_id="m1", role=Role.ROLE_USER, parts=[Part(text=text)], **message)
    return SendMessageRequest(message=said)


async def heard(source: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in source]


async def test_the_network_is_found_by_its_card_and_answers(agent: Agents, running: Running) -> None:
    client = await agent()
    events = await heard(client.send_message(saying("who is right")))
    assert events[0].HasField("task")
    assert events[0].task.id.startswith("run_")
    states = [event.status_update.status.state for event in events if event.HasField("status_update")]
    assert states[-1] == TaskState.TASK_STATE_COMPLETED
    assert TaskState.TASK_STATE_WORKING in states
    (answer,) = [event.artifact_update.artifact for event in events if event.HasField("artifact_update")]
    assert answer.parts[0].text == running.network.ask("who is right")
    found = await client.get_task(GetTaskRequest(id=events[0].task.id))
    assert (found.status.state, found.artifacts[0].parts[0].text) == (states[-1], answer.parts[0].text)
    assert found.context_id == events[0].task.context_id


async def test_a_team_has_a_card_of_its_own_and_asks_its_person(agent: Agents, running: Running, folder: Path) -> None:
    client = await agent("talkers", streaming=False)
    (first,) = await heard(client.send_message(saying("Paint the door", context_id="doors")))
    assert first.task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
    assert "Which colour?" in first.task.status.message.parts[0].text
    assert first.task.context_id == "doors"
    (second,) = await heard(client.send_message(saying("green", task_id=first.task.id)))
    assert second.task.id == first.task.id
    assert second.task.status.state == TaskState.TASK_STATE_COMPLETED
    assert second.task.artifacts[0].parts[0].text == "green"
    payer = await agent("payer")
    events = await heard(payer.send_message(saying("Pay 17")))
    assert events[-1].status_update.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
    assert "paid 17" not in world(folder)
    rest = await heard(payer.send_message(saying("approve", task_id=events[0].task.id)))
    assert rest[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED
    assert world(folder).count("paid 17") == 1


async def test_a_task_is_listened_to_again_listed_and_cancelled(agent: Agents, running: Running) -> None:
    client = await agent("slow")
    request = saying("Go.")
    request.configuration.return_immediately = True
    once = await agent("slow", streaming=False)
    (before,) = await heard(once.send_message(request))
    (begun,) = await heard(once.send_message(request))
    listening = client.subscribe(SubscribeToTaskRequest(id=begun.task.id))
    assert (await anext(listening)).task.id == begun.task.id
    listed = await client.list_tasks(ListTasksRequest(page_size=1))
    assert [task.id for task in listed.tasks] == [begun.task.id]
    assert listed.next_page_token
    ended = await client.cancel_task(CancelTaskRequest(id=begun.task.id))
    assert ended.status.state == TaskState.TASK_STATE_CANCELED
    last = await heard(listening)
    assert last[-1].status_update.status.state == TaskState.TASK_STATE_CANCELED
    with pytest.raises(Exception, match="cancelled"):
        await client.cancel_task(CancelTaskRequest(id=begun.task.id))
    await client.cancel_task(CancelTaskRequest(id=before.task.id))


async def test_what_is_not_honoured_is_refused_and_others_tasks_are_not_there(agent: Agents, running: Running) -> None:
    client, other = await agent(), await agent(who="bob")
    (begun,) = await heard((await agent(streaming=False)).send_message(saying("who is right")))
    with pytest.raises(Exception, match=r"no run|not found"):
        await other.get_task(GetTaskRequest(id=begun.task.id))
    assert not (await other.list_tasks(ListTasksRequest())).tasks
    called_back = saying("x")
    called_back.configuration.task_push_notification_config.CopyFrom(
        TaskPushNotificationConfig(url="http://169.254.169.254/")
    )
    with pytest.raises(Exception, match=r"[Pp]ush"):
        await heard(client.send_message(called_back))
    picture = SendMessageRequest(
        message=Message(message_id="m", role=Role.ROLE_USER, parts=[Part(url="http://127.0.0.1/x.png")])
    )
    with pytest.raises(Exception, match="Only text"):
        await heard(client.send_message(picture))
    broken = await heard((await agent("broken")).send_message(saying("x")))
    assert broken[-1].status_update.status.state == TaskState.TASK_STATE_FAILED
    assert "shadow" not in str(broken)


def test_the_card_and_the_endpoint_want_a_key_and_stay_on_this_server(running: Running) -> None:
    for path in ("/.well-known/agent-card.json", "/a2a/payer/agent-card.json"):
        assert httpx.get(running.url + path).status_code == 401
    assert httpx.post(f"{running.url}/a2a", json={}).status_code == 401
    headers = {"Authorization": f"Bearer {running.server.secrets['ann']}"}  # type: ignore[attr-defined]
    card = httpx.get(f"{running.url}/.well-known/agent-card.json", headers=headers).json()
    assert card["supportedInterfaces"][0]["url"] == f"{running.url}/a2a"
    assert {"network", "base", "judge", "payer", "talkers"} <= {skill["id"] for skill in card["skills"]}
    assert card["capabilities"]["pushNotifications"] is False
    assert httpx.get(f"{running.url}/a2a/nobody/agent-card.json", headers=headers).status_code == 404
    wrong = httpx.post(f"{running.url}/a2a", headers=headers, json={"jsonrpc": "2.0", "id": 1, "method": "rm"}).json()
    assert wrong["error"]["code"] == -32601
