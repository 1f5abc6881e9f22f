"""/v1/runs against a real server: runs go on without their clients, wait for people, are ended, forked, replayed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from plural import sync
from plural.serve.keys import make_key, write_keys
from plural.types import RunFinished
from tests.serve.desk import desk, world
from tests.serve.tiny import Running, served, tiny_network

OVER = ("finished", "failed", "cancelled")


class Client(httpx.Client):
    """httpx, and how a run is waited for."""

    def begin(self, model: str, input: Any = "Go.", **body: Any) -> dict[str, Any]:
        answer = self.post("/v1/runs", json={"model": model, "input": input, **body})
        assert answer.status_code == 200, answer.text
        run: dict[str, Any] = answer.json()
        return run

    def until(self, run: Any, *statuses: str) -> dict[str, Any]:
        """The run as soon as it is so."""
        id, end = run["id"], time.monotonic() + 60
        while True:
            now: dict[str, Any] = self.get(f"/v1/runs/{id}").json()
            if now["status"] in (statuses or OVER):
                return now
            assert time.monotonic() < end, now
            time.sleep(0.01)

    def events(self, run: Any, *, after: int | None = None, path: str = "events", **query: Any) -> list[dict[str, Any]]:
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        answer = self.get(f"/v1/runs/{run['id']}/{path}", headers=headers, params=query)
        assert answer.status_code == 200, answer.text
        return list(parsed(answer.text))

    def told(self, run: Any, act: str, **body: Any) -> httpx.Response:
        return self.post(f"/v1/runs/{run['id']}/{act}", json=body)


def parsed(text: str) -> Iterator[dict[str, Any]]:
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            data = json.loads(fields["data"])
            assert data["event"] == fields["event"]
            assert fields.get("id") == (str(data["seq"]) if "seq" in data else None)
            yield data


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    network = tiny_network(folder / "home", max_tokens=8, journal=folder / "journal.db")
    with served(network, offers=desk(network, folder)) as running:
        yield running
    network.engine.check()
    network.close()


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with Client(base_url=running.url, timeout=30) as client:
        yield client


# ------------------------------------------------------------------------------------------------------ begin and watch
@pytest.mark.parametrize("model", ["network", "base", "judge", "clerk:0.5+judge:0.5"])
def test_a_run_is_begun_and_ends_without_anybody_who_listens(client: Client, running: Running, model: str) -> None:
    run = client.begin(model, "is this fair", metadata={"of": "ann"})
    assert run["id"].startswith("run_")
    assert run["status"] in ("running", "finished")
    done = client.until(run)
    to = None if model == "network" else model
    expected = running.network.work("is this fair", to=to)
    answers = [event.answer for event in sync.iterate(expected) if isinstance(event, RunFinished)]
    assert (done["status"], done["answer"]) == ("finished", answers[-1])
    assert done["usage"]["completion_tokens"] >= 1
    assert (done["model"], done["metadata"], done["questions"]) == (model, {"of": "ann"}, [])


def test_its_events_are_numbered_by_the_journal_and_taken_up_again_anywhere(client: Client, running: Running) -> None:
    run = client.begin("network", "who is right")
    events = client.events(run)
    assert kinds(events)[:2] == ["RunStarted", "Routed"]
    assert kinds(events)[-2:] == ["RunFinished", "end"]
    assert events[0]["input"] == {"request": "who is right", "history": []}
    seqs = [event["seq"] for event in events[:-1]]
    known = {entry.seq for entry in running.network.journal.entries(run["id"].removeprefix("run_"))}
    assert seqs == sorted(set(seqs))
    assert set(seqs) <= known
    for seen in (seqs[0], seqs[3], seqs[-2]):
        rest = client.events(run, after=seen)
        assert rest == [event for event in events if event.get("seq", seen + 1) > seen]
        asked = client.get(f"/v1/runs/{run['id']}/events", params={"after": seen})
        assert list(parsed(asked.text)) == rest
    over = client.get(f"/v1/runs/{run['id']}/events", headers={"Last-Event-ID": str(max(known))})
    assert (over.status_code, over.content) == (204, b"")
    wrong = client.get(f"/v1/runs/{run['id']}/events", headers={"Last-Event-ID": "last week"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Last-Event-ID")


def test_a_stream_that_begins_with_the_run_tells_all_of_it_as_it_happens(client: Client) -> None:
    with client.stream("POST", "/v1/runs", json={"model": "slow", "input": "Go.", "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = answer.iter_text()
        seen = ""
        while seen.count("event: ToolReturned") < 3:
            seen += next(blocks)
    assert "event: RunStarted" in seen
    newest = client.get("/v1/runs").json()["data"][0]
    assert newest["status"] == "running", "it goes on when its client has gone"
    assert client.told(newest, "cancel").json()["status"] == "cancelled"


def test_runs_are_listed_newest_first_by_pages(client: Client) -> None:
    mine = [client.begin("judge", f"question {number}")["id"] for number in range(5)]
    first = client.get("/v1/runs", params={"limit": 3}).json()
    second = client.get("/v1/runs", params={"limit": 3, "after": first["last_id"]}).json()
    listed = [run["id"] for run in first["data"] + second["data"]]
    assert listed[:5] == mine[::-1]
    assert first["has_more"]
    assert first["data"][0]["title"] == "question 4"


# --------------------------------------------------------------------------------------------------------------- people
def test_a_call_waits_for_approval_and_is_made_once(client: Client, folder: Path) -> None:
    run = client.begin("payer", "Pay 31, please")
    waits = client.until(run, "waiting")
    (asked,) = waits["questions"]
    assert (asked["kind"], asked["agent"], asked["call"]["arguments"]) == ("approval", "payer", {"amount": 31})
    assert "paid 31" not in world(folder)
    assert client.told(run, "approve", question=asked["id"]).status_code == 200
    done = client.until(run)
    assert done["answer"] == "It came to this: paid 31"
    assert world(folder).count("paid 31") == 1
    assert client.told(run, "approve").json()["error"]["code"] == "nothing_asked"


def test_a_call_is_denied_or_made_with_other_arguments(client: Client, folder: Path) -> None:
    denied, changed = client.begin("payer", "Pay 41"), client.begin("payer", "Pay 51")
    client.until(denied, "waiting")
    client.until(changed, "waiting")
    client.told(denied, "deny", reason="Too much.")
    client.told(changed, "approve", arguments={"amount": 52})
    assert "Too much." in client.until(denied)["answer"]
    assert client.until(changed)["answer"] == "It came to this: paid 52"
    assert {"paid 41", "paid 51"}.isdisjoint(world(folder))
    assert world(folder).count("paid 52") == 1


def test_a_person_is_part_of_a_team_and_the_stream_waits_with_it(client: Client) -> None:
    run = client.begin("talkers", "Paint the door")
    waits = client.until(run, "waiting")
    (asked,) = waits["questions"]
    assert (asked["kind"], asked["agent"], asked["call"]) == ("answer", "user", None)
    refused = client.told(run, "approve")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_approval_asked")
    with client.stream("GET", f"/v1/runs/{run['id']}/events") as answer:
        blocks, seen = answer.iter_text(), ""
        while "event: Question" not in seen:
            seen += next(blocks)
        assert client.told(run, "answer", answer="green").status_code == 200
        seen += "".join(blocks)
    events = list(parsed(seen))
    assert [event["answer"] for event in events if event["event"] == "Answered"] == ["green"]
    assert events[-1] == {"event": "end", "status": "finished"}
    assert kinds(events).count("waits") == 1
    assert client.until(run)["answer"] == "green"


def drawn_up(task: str) -> dict[str, Any]:
    """A team of the base alone."""
    bare = {"observers": False, "refinement": False, "memory": False}
    return {"task": task, "agents": [{"name": "a"}], "steps": [{"task": task, "agents": ["a"]}], "ways": bare}


def test_a_plan_waits_for_approval(client: Client) -> None:
    order = {"team": drawn_up("file this"), "approve_plan": True}
    denied, approved = (client.post("/v1/runs", json=order).json() for _ in range(2))
    (asked,) = client.until(denied, "waiting")["questions"]
    assert (asked["kind"], asked["call"]) == ("approval", None)
    assert "1. a: file this" in asked["text"]
    client.told(denied, "deny", reason="Not now.")
    assert client.until(denied)["answer"] == "A person denied the plan: Not now."
    client.until(approved, "waiting")
    client.told(approved, "approve")
    done = client.until(approved)
    assert done["status"] == "finished"
    assert list(done["costs"]) == ["a"]
    assert done["costs"]["a"] == done["usage"]
    refused = client.post("/v1/runs", json={"model": "base", "input": "Go.", "approve_plan": True})
    assert refused.status_code == 400
    assert "makes no plan" in refused.json()["error"]["message"]


@pytest.mark.parametrize("order", [{"model": "base", "input": "Go."}, {"model": "judge", "input": "Go."}])
def test_a_run_has_a_budget(client: Client, order: dict[str, Any]) -> None:
    failed = client.until(client.post("/v1/runs", json={**order, "budget": {"seconds": 1e-6}}).json())
    assert (failed["status"], failed["error"]["error"]) == ("failed", "LimitError")
    assert "used up its seconds" in failed["error"]["message"]
    enough = client.until(client.post("/v1/runs", json={**order, "budget": {"steps": 20, "tokens": 5000}}).json())
    assert enough["status"] == "finished"
    for wrong in ({"tokens": 0}, {"hours": 1}):
        assert client.post("/v1/runs", json={**order, "budget": wrong}).status_code == 400


def test_a_team_stops_with_what_it_has_when_its_run_s_budget_is_used_up(client: Client) -> None:
    order = {"team": drawn_up("file this"), "budget": {"seconds": 1e-6}}
    done = client.until(client.post("/v1/runs", json=order).json())
    assert (done["status"], done["answer"]) == ("finished", "")


def test_what_nobody_asked_cannot_be_answered(client: Client) -> None:
    run = client.begin("payer", "Pay 61")
    client.until(run, "waiting")
    wrong = client.told(run, "answer", answer="approve", question=0)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (409, "question")
    client.told(run, "cancel")


# ------------------------------------------------------------------------------------------------- cancel, fork, replay
def test_a_run_is_cancelled_and_may_be_gone_on_with(client: Client, folder: Path) -> None:
    run = client.begin("slow")
    ended = client.told(run, "cancel", reason="Enough.").json()
    assert ended["status"] == "cancelled"
    events = client.events(run)
    assert events[-2]["why"] == "Enough."
    assert events[-1] == {"event": "end", "status": "cancelled"}
    assert client.told(run, "cancel").status_code == 409
    assert client.told(run, "resume").json()["status"] == "running"
    assert client.told(run, "cancel").json()["status"] == "cancelled"
    waits = client.begin("payer", "Pay 71")
    client.until(waits, "waiting")
    assert client.told(waits, "cancel").json()["status"] == "cancelled"
    assert client.told(waits, "approve").status_code == 409
    assert "paid 71" not in world(folder)


def test_a_run_forks_at_an_event_and_another_specialist_goes_on(client: Client, running: Running) -> None:
    run = client.until(client.begin("clerk", "is this fair"))
    events = client.events(run)
    at = next(event["seq"] for event in events if event["event"] == "StepStarted")
    forked = client.until(client.told(run, "fork", at=at, **{"with": "judge"}).json())
    assert (forked["parent"], forked["forked_at"], forked["with"]) == (run["id"], at, "judge")
    assert forked["answer"] in ("yes", "no"), "the judge's contract holds"
    shared = [event for event in client.events(forked) if event.get("seq", at + 1) <= at]
    assert shared == [event for event in events if event.get("seq", at + 1) <= at]
    assert client.until(run)["answer"] == run["answer"], "the run itself is as it was"
    again = client.until(client.told(forked, "fork", at=forked["last_entry"]).json())
    assert (again["with"], again["answer"]) == ("judge", forked["answer"])
    nobody = client.told(run, "fork", at=at, **{"with": "nobody"})
    assert (nobody.status_code, nobody.json()["error"]["param"]) == (404, "with")
    nowhere = client.told(run, "fork", at=10_000)
    assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (409, "run_error")


def test_a_replay_computes_nothing_and_is_what_was_shown(client: Client, running: Running) -> None:
    run = client.until(client.begin("network", "who is right"))
    before = running.network.engine.stats().submitted
    events = client.events(run, path="replay")
    live = [event for event in client.events(run) if event["event"] != "RunStarted"]
    assert events == live
    assert running.network.engine.stats().submitted == before
    started = time.monotonic()
    assert client.events(run, path="replay", speed=1000) == events
    assert time.monotonic() - started < 10


def test_a_failure_is_told_and_says_nothing_of_the_inside(client: Client) -> None:
    run = client.until(client.begin("broken"))
    assert run["status"] == "failed"
    assert run["error"] == {"error": "ZeroDivisionError", "message": "Something went wrong in the server."}
    events = client.events(run)
    assert kinds(events)[-2:] == ["RunFailed", "end"]
    assert "shadow" not in json.dumps(events)
    assert client.until(client.told(run, "resume").json(), "failed")["id"] == run["id"]


# ---------------------------------------------------------------------------------------------------------------- teams
def test_a_team_is_drafted_saved_run_and_deleted(client: Client) -> None:
    drafted = client.post("/v1/teams/draft", json={"task": "is this fair", "settle": True}).json()
    team = drafted["team"]
    assert team["steps"][0]["agents"]
    team["task"] = "file this paper"
    team["ways"] |= {"observers": False, "refinement": False, "memory": False}
    inline = client.post("/v1/runs", json={"team": team}).json()
    assert inline["title"] == "file this paper"
    done = client.until(inline)
    saved = client.post("/v1/teams/filers", json=team)
    assert saved.status_code == 200, saved.text
    assert "team/filers" in [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert client.get("/v1/teams/filers").json()["team"]["task"] == "file this paper"
    again = client.until(client.begin("team/filers", "file this paper"))
    assert (again["status"], again["answer"]) == (done["status"], done["answer"])
    chat = {"model": "team/filers", "messages": [{"role": "user", "content": "file this paper"}]}
    said = client.post("/v1/chat/completions", json=chat).json()
    assert said["choices"][0]["message"]["content"] == done["answer"]
    assert client.delete("/v1/teams/filers").json()["deleted"]
    assert client.post("/v1/runs", json={"model": "team/filers"}).status_code == 404
    assert client.delete("/v1/teams/filers").status_code == 404


def test_drafting_has_a_budget(client: Client) -> None:
    answer = client.post("/v1/teams/draft", json={"task": "file this", "by": "base", "budget": {"seconds": 1e-6}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "limit_reached")


def test_a_team_that_cannot_work_is_refused_with_all_that_is_wrong(client: Client) -> None:
    team = {"task": "x", "agents": [{"name": "a", "specialist": "ghost", "tools": ["rm"]}]}
    team |= {"steps": [{"task": "y", "agents": ["b"]}]}
    answer = client.post("/v1/runs", json={"team": team})
    assert answer.status_code == 400
    assert all(named in answer.text for named in ("ghost", "rm", "'b'"))


def test_offered_agents_and_teams_are_models_of_the_chat_too(client: Client) -> None:
    ids = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert {"payer", "talkers", "ledgers"} <= set(ids)
    chat = {"model": "ledgers", "messages": [{"role": "user", "content": "book for chat"}]}
    assert client.post("/v1/chat/completions", json=chat).status_code == 200
    handing = client.post("/v1/chat/completions", json=chat | {"model": "relay"}).json()
    assert handing["choices"][0]["message"]["content"] == "It works again."
    needs = client.post("/v1/chat/completions", json=chat | {"model": "payer"})
    assert needs.status_code == 400
    assert "POST /v1/runs" in needs.json()["error"]["message"]


# ------------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "judge", "input": "x", "temperature": 1}, 400, "temperature"),
        ({"model": "judge", "input": "x", "team": None, "speed": 1}, 400, "speed"),
        ({"input": "x"}, 400, "model"),
        ({"model": "nobody", "input": "x"}, 404, "model"),
        ({"model": "judge@1", "input": "x"}, 404, "model"),
        ({"model": "judge", "input": ""}, 400, "input"),
        ({"model": "judge"}, 400, None),
        ({"model": "judge", "input": [{"role": "tool", "content": "x"}]}, 400, "input"),
        ({"model": "judge", "input": [{"role": "assistant", "content": "x"}]}, 400, None),
        ({"model": "ledgers", "input": [{"role": "user", "content": "x"}] * 2}, 400, None),
    ],
)
def test_a_body_that_cannot_be_honoured_is_refused_by_name(
    client: Client, body: dict[str, Any], status: int, param: str | None
) -> None:
    answer = client.post("/v1/runs", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


@pytest.mark.parametrize(
    ("act", "body", "named"),
    [
        ("answer", {"answer": "x", "to": 1}, "to"),
        ("approve", {"all": True}, "all"),
        ("fork", {"at": 0, "specialist": "judge"}, "specialist"),
        ("fork", {}, "at"),
        ("cancel", {"why": "x"}, "why"),
    ],
)
def test_unknown_fields_of_what_changes_a_run_are_refused(
    client: Client, act: str, body: dict[str, Any], named: str
) -> None:
    run = client.begin("judge")
    answer = client.told(run, act, **body)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]


@pytest.mark.parametrize("id", ["run_", "run_%", "run_0", "judge", "run_..%2F..", "run_" + "0" * 12])
def test_a_run_is_found_by_its_whole_name_only(client: Client, id: str) -> None:
    client.begin("judge")
    assert client.get(f"/v1/runs/{id}").status_code == 404


def test_there_is_no_room_for_one_more(tmp_path: Path) -> None:
    network = tiny_network(tmp_path / "home", journal=tmp_path / "journal.db")
    with (
        served(network, offers=desk(network, tmp_path), max_inside=2) as running,
        Client(base_url=running.url, timeout=30) as client,
    ):
        waits = client.begin("payer", "Pay 1")
        client.until(waits, "waiting")  # costs nothing
        inside = [client.begin("slow") for _ in range(2)]
        full = client.post("/v1/runs", json={"model": "judge", "input": "x"})
        assert (full.status_code, full.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(full.headers["retry-after"]) >= 1
        assert client.told(waits, "approve").status_code == 200, "an answer is never lost"
        assert client.until(waits, "queued")["status"] == "queued"
        client.told(inside[0], "cancel")
        assert client.until(waits)["answer"] == "It came to this: paid 1"
        client.told(inside[1], "cancel")
        assert running.server.service.gate.inside == 0
    network.close()


def test_a_run_that_takes_too_long_is_cancelled(tmp_path: Path) -> None:
    network = tiny_network(tmp_path / "home", journal=tmp_path / "journal.db")
    with (
        served(network, offers=desk(network, tmp_path), run_timeout=0.2) as running,
        Client(base_url=running.url, timeout=30) as client,
    ):
        run = client.until(client.begin("slow"))
        assert run["status"] == "cancelled"
        assert "longer than 0.2 seconds" in client.events(run)[-2]["why"]
    network.close()


def test_nobody_sees_or_touches_a_run_of_anothers_key(tmp_path: Path) -> None:
    network = tiny_network(tmp_path / "home", journal=tmp_path / "journal.db")
    owners = network.journal.create({"request": "x", "history": []}, {"kind": "network", "to": None, "base": "?"})
    network.journal.cancel(owners, "at a terminal")
    made = {"ann": make_key(["use"]), "bob": make_key(["use"]), "root": make_key(["use", "admin"])}
    write_keys(tmp_path / "keys.json", [key for _, key in made.values()])

    def of(name: str) -> Client:
        headers = {"Authorization": f"Bearer {made[name][0]}"}
        return Client(base_url=running.url, headers=headers, timeout=30)

    with served(network, offers=desk(network, tmp_path), keys=tmp_path / "keys.json") as running:
        assert httpx.get(f"{running.url}/v1/runs").status_code == 401
        with of("ann") as ann, of("bob") as bob, of("root") as root:
            run = ann.begin("payer", "Pay 5")
            ann.until(run, "waiting")
            for other in (bob, root):
                assert other.get(f"/v1/runs/{run['id']}").status_code == 404
                for act, body in {"approve": {}, "cancel": {}, "fork": {"at": 0}, "resume": {}}.items():
                    assert other.told(run, act, **body).status_code == 404, act
                assert other.get(f"/v1/runs/{run['id']}/events").status_code == 404
                assert run["id"] not in [one["id"] for one in other.get("/v1/runs").json()["data"]]
            assert [one["id"] for one in root.get("/v1/runs").json()["data"]] == [f"run_{owners}"]
            assert ann.get(f"/v1/runs/run_{owners}").status_code == 404
            assert ann.post("/v1/teams/mine", json={}).status_code == 403
            ann.told(run, "approve")
            assert ann.until(run)["answer"] == "It came to this: paid 5"
    network.close()


# ------------------------------------------------------------------------------------------------------- start and end
def test_what_was_under_way_goes_on_when_the_server_starts_again(tmp_path: Path) -> None:
    def at_work(do: Callable[[Client], Any]) -> Any:
        network = tiny_network(tmp_path / "home", journal=tmp_path / "journal.db")
        with (
            served(network, offers=desk(network, tmp_path), drain=0) as running,
            Client(base_url=running.url, timeout=30) as client,
        ):
            made = do(client)
        network.close()
        return made

    def first(client: Client) -> Any:
        waits, works = client.begin("payer", "Pay 9"), client.begin("slow")
        client.until(waits, "waiting")
        while client.get(f"/v1/runs/{works['id']}").json()["last_entry"] < 8:
            time.sleep(0.01)
        return waits, works

    waits, works = at_work(first)

    def second(client: Client) -> Any:
        again = client.until(works, "running")
        assert client.until(waits, "waiting")["questions"][0]["call"]["arguments"] == {"amount": 9}
        assert "paid 9" not in world(tmp_path)
        client.told(waits, "approve")
        assert client.until(waits)["answer"] == "It came to this: paid 9"
        assert client.told(works, "cancel").status_code == 200
        assert "Resumed" in kinds(client.events(works))
        return again["id"]

    assert at_work(second) == works["id"]
    assert world(tmp_path) == ["paid 9"]


def test_without_a_journal_there_are_no_runs(tmp_path: Path) -> None:
    network = tiny_network(tmp_path)
    with served(network) as running, Client(base_url=running.url, timeout=30) as client:
        for path in ("/v1/runs", "/v1/teams/court"):
            assert client.get(path).json()["error"]["code"] == "no_journal"
        assert client.get("/v1/teams").json()["data"] == []
    network.close()
