"""A person looks at a call before it is made: the run pauses, is put away as text, and goes on in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plural.agents import Agent, Approve, Budget, Deny, Reviewed, approve, deny, mark, tool
from plural.errors import LimitError, SettingsError
from plural.testing import ScriptedModel, calling
from plural.types import Paused, RunFinished, StepStarted, ToolCall, ToolCalled, ToolReturned, Usage, event_to_json


class Files:
    """What was read and deleted, and an agent that may do both."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.deleted: list[str] = []

    def agent(self, model: ScriptedModel, **options: Any) -> Agent:
        @tool
        def read(path: str) -> str:
            """Read a file."""
            self.read.append(path)
            return f"{path} is empty"

        @mark(approval=True)
        @tool
        def delete(path: str) -> str:
            """Delete a file."""
            self.deleted.append(path)
            return f"{path} is gone"

        return Agent("clerk", model, tools=[read, delete], **options)


BOTH = calling(("read", {"path": "a"}), ("delete", {"path": "a"}), ("delete", {"path": "b"}))


def put_away(paused: Any) -> Paused:
    assert isinstance(paused, Paused)
    return Paused.from_json(paused.to_json())


def test_nothing_of_the_turn_is_done_before_all_of_it_is_approved() -> None:
    files = Files()
    agent = files.agent(ScriptedModel([BOTH, "Both are gone."]))
    paused = put_away(agent.invoke("Clean up."))
    assert paused.calls == (
        ToolCall("call_1", "delete", {"path": "a"}),
        ToolCall("call_2", "delete", {"path": "b"}),
    )
    assert (files.read, files.deleted) == ([], [])
    assert agent.invoke(approve(paused)) == "Both are gone."
    assert (files.read, files.deleted) == (["a"], ["a", "b"])


def test_a_denied_call_is_an_observation() -> None:
    files, model = Files(), ScriptedModel([BOTH, "I kept them."])
    agent = files.agent(model)
    assert agent.invoke(deny(put_away(agent.invoke("Clean up.")), "Ann needs them.")) == "I kept them."
    assert (files.read, files.deleted) == (["a"], [])
    told = [(message.content, message.status) for message in model.asked[1].messages if message.type == "tool"]
    assert told == [
        ("a is empty", "success"),
        ("A person denied this call: Ann needs them.", "error"),
        ("A person denied this call: Ann needs them.", "error"),
    ]


def test_each_call_has_its_verdict_and_edited_arguments_stand_in_the_transcript() -> None:
    files, model = Files(), ScriptedModel([BOTH, "Done."])
    agent = files.agent(model)
    paused = put_away(agent.invoke("Clean up."))
    verdicts = {"call_1": Deny("No."), "call_2": Approve({"path": "c"})}
    assert agent.invoke(Reviewed(paused, verdicts)) == "Done."
    assert files.deleted == ["c"]
    said = next(message for message in model.asked[1].messages if message.type == "ai")
    assert [call["args"]["path"] for call in said.tool_calls] == ["a", "a", "c"]
    assert model.asked[1].messages[-1].content == "c is gone"


async def test_the_events_before_and_after() -> None:
    agent = Files().agent(ScriptedModel([BOTH, "Done."]))
    before = [event async for event in agent.events("Clean up.", step=3)]
    assert [type(event) for event in before] == [StepStarted, Paused]
    paused = before[-1]
    assert isinstance(paused, Paused)
    assert paused.usage == Usage(prompt=2, completion=3)
    assert json.loads(json.dumps(event_to_json(paused)))["event"] == "Paused"
    after = [event async for event in agent.events(approve(put_away(paused)))]
    kinds = [type(event) for event in after]
    assert kinds[:6] == [ToolCalled] * 3 + [ToolReturned] * 3
    assert StepStarted not in kinds
    assert {getattr(event, "step", 3) for event in after} == {3}
    last = after[-1]
    assert isinstance(last, RunFinished)
    assert last.usage == Usage(prompt=2 + 2 + 9, completion=3 + 1)


async def test_a_stream_ends_with_the_pause() -> None:
    agent = Files().agent(ScriptedModel([calling(("delete", {"path": "a"}), text="I delete a."), "Done."]))
    *words, paused = [part async for part in agent.astream("Clean up.")]
    assert "".join(words) == "I delete a."
    assert [part async for part in agent.astream(approve(put_away(paused)))] == ["Done."]


def test_a_run_may_pause_again_and_again() -> None:
    files = Files()
    once = [calling(("delete", {"path": path})) for path in "abc"]
    agent = files.agent(ScriptedModel([*once, "All gone."]))
    outcome = agent.invoke("Clean up.")
    for gone in (["a"], ["a", "b"], ["a", "b", "c"]):
        outcome = agent.invoke(approve(put_away(outcome)))
        assert files.deleted == gone
    assert outcome == "All gone."


def test_what_was_spent_and_seen_is_kept() -> None:
    files = Files()
    same = calling(("delete", {"path": "a"}))
    agent = files.agent(ScriptedModel([same] * 4), budget=Budget(steps=8))
    paused = put_away(agent.invoke("Clean up."))
    paused = put_away(agent.invoke(approve(paused)))
    # The second time the result is the same, and the model has to answer; it calls again.
    with pytest.raises(LimitError, match="keeps calling tools where it has to answer"):
        agent.invoke(approve(paused))
    agent = files.agent(ScriptedModel([same, "Done."]), budget=Budget(steps=1))
    paused = put_away(agent.invoke("Clean up."))
    with pytest.raises(LimitError, match="clerk has used up its steps: 1 of 1"):
        agent.invoke(approve(paused))


def test_unreadable_and_unknown_calls_need_no_person() -> None:
    odd = calling(("shred", {"path": "a"}))
    odd.invalid_tool_calls = [
        {"type": "invalid_tool_call", "id": "x", "name": "delete", "args": "]", "error": ""}
    ]  # fmt: skip
    assert Files().agent(ScriptedModel([odd, "Sorry."])).invoke("Clean up.") == "Sorry."


PROGRAM = """
import sys
from pathlib import Path
from plural.agents import Agent, Approve, Reviewed, mark, tool
from plural.testing import ScriptedModel, calling
from plural.types import Paused

@mark(approval=True)
@tool
def write(line: str) -> str:
    \"\"\"Write a line.\"\"\"
    with Path(sys.argv[1]).open("a") as file:
        print(line, file=file)
    return "written"

def agent(*replies):
    return Agent("clerk", ScriptedModel(replies), tools=[write])

saved = Path(sys.argv[2])
if sys.argv[3] == "start":
    saved.write_text(agent(calling(("write", {"line": "one"}))).invoke("Write one.").to_json())
else:
    paused = Paused.from_json(saved.read_text())
    print(agent("It is written.").invoke(Reviewed(paused, {"call_0": Approve({"line": "two"})})))
"""


def test_another_process_goes_on(tmp_path: Path) -> None:
    written, saved = tmp_path / "written", tmp_path / "paused.json"

    def run(what: str) -> str:
        command = [sys.executable, "-c", PROGRAM, str(written), str(saved), what]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    run("start")
    assert not written.exists()
    assert run("go on") == "It is written.\n"
    assert written.read_text() == "two\n"


def test_verdicts_fit_the_calls() -> None:
    agent = Files().agent(ScriptedModel([BOTH] * 2))
    paused = put_away(agent.invoke("Clean up."))
    with pytest.raises(SettingsError, match=r"no verdict on delete \(call_2\)"):
        Reviewed(paused, {"call_1": Approve()})
    with pytest.raises(SettingsError, match="No call 'call_0' waits"):
        Reviewed(paused, {"call_0": Approve(), "call_1": Approve(), "call_2": Approve()})


def test_what_is_no_paused_run_of_this_agent() -> None:
    paused = put_away(Files().agent(ScriptedModel([BOTH])).invoke("Clean up."))
    other = Agent("poet", ScriptedModel([]))
    with pytest.raises(SettingsError, match="The run of agent 'clerk' cannot go on with 'poet'"):
        other.invoke(approve(paused))
    agent = Files().agent(ScriptedModel([]))
    with pytest.raises(SettingsError, match="version 7"):
        agent.invoke(approve(replace(paused, state={**paused.state, "version": 7})))
    without = {key: value for key, value in paused.state.items() if key != "messages"}
    with pytest.raises(SettingsError, match="damaged: KeyError\\('messages'\\)"):
        agent.invoke(approve(replace(paused, state=without)))
    for text in ("", "[]", "{}", '{"calls": [{}]}'):
        with pytest.raises(SettingsError, match="no paused run"):
            Paused.from_json(text)


def test_an_agent_that_may_wait_is_no_tool() -> None:
    agent = Files().agent(ScriptedModel([]))
    with pytest.raises(SettingsError, match="its tool 'delete' may end its work without an answer"):
        Agent("boss", ScriptedModel([]), tools=[agent])
