"""The commands as a person types them, on a tiny base: train, list, show, ask, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from plural.agents import toolbox
from plural.wiring import training
from tests.models import tiny
from tests.typed import Plural, typed_at, write_sums


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base and forty rows."""
    folder = tmp_path_factory.mktemp("home")
    tiny.save_small(folder / "base")
    write_sums(folder / "rows.jsonl")
    return folder


@pytest.fixture
def plural(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plural:
    """Runs the command; returns exit code, standard output and standard error."""
    return typed_at(home, monkeypatch, capsys)


@pytest.fixture
def trained(plural: Plural, home: Path) -> list[dict[str, Any]]:
    """The stages of the training of `echo`, which is in the library afterwards."""
    if (home / "library" / "echo").exists():
        return []
    code, out, problems = plural("train", "rows.jsonl", "--name", "echo", "--purpose", "Adds small numbers.", "--json")
    assert code == 0, problems
    return [json.loads(line) for line in out.splitlines()]


def test_forty_examples_become_a_specialist_with_a_scorecard(
    plural: Plural, home: Path, trained: list[dict[str, Any]]
) -> None:
    names = list(dict.fromkeys(stage["stage"] for stage in trained))
    assert names[:2] == ["contract", "training"]
    assert names[-1] == "publishing"
    assert sum(stage["stage"].startswith("scoring") for stage in trained) > 3
    assert {path.name for path in (home / "library" / "echo").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "specialist.json",
    }
    code, out, _ = plural("list", "--json")
    assert code == 0
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["echo"]
    card = json.loads(plural("show", "echo", "--json")[1])
    assert card["purpose"] == "Adds small numbers."
    assert {who: scores[0]["n"] for who, scores in card["scores"].items()} == {"base": 4, "specialist": 4}
    assert "echo" in plural("list")[1]
    assert "Adds small numbers." in plural("show", "echo")[1]


def test_a_specialist_can_be_trained_to_act_on_the_answer_only(plural: Plural, home: Path) -> None:
    code, _, problems = plural("train", "rows.jsonl", "--name", "late", "--activated", "--epochs", "1", "--json")
    assert code == 0, problems
    folder = home / "library" / "late"
    card = json.loads((folder / "specialist.json").read_text())
    assert card["lineage"]["settings"]["activated"] is True
    assert (
        card["invocation"] == json.loads((folder / "adapter_config.json").read_text())["alora_invocation_tokens"] != []
    )
    code, _, problems = plural("ask", "--to", "late", "3 and 3?", "--json")
    assert code == 0, problems
    (folder / "specialist.json").write_text(json.dumps(card | {"invocation": []}))
    code, out, _ = plural("ask", "--to", "late", "3 and 3?", "--json")
    assert code != 0
    assert "is invoked by" in out
    shutil.rmtree(folder)


@pytest.mark.usefixtures("trained")
def test_a_specialist_answers_and_the_trace_says_who(plural: Plural) -> None:
    code, out, problems = plural("ask", "--to", "echo", "3 and 3?", "--json")
    assert code == 0, problems
    events = [json.loads(line) for line in out.splitlines()]
    assert events[-1]["event"] == "RunFinished"
    assert {event["agent"] for event in events if event["event"] == "StepStarted"} == {"echo"}
    code, out, problems = plural("ask", "3 and 3?")
    assert code == 0, problems
    assert "3 and 3?" in out


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("ask", "--to", "ecko", "hello"), "echo"),
        (("ask", " "), "empty"),
        (("show", "ecko"), "echo"),
        (("train", "rows.jsonl", "--name", "echo"), "--replace"),
        (("train", "rows.jsonl", "--name", "../echo"), "../echo"),
        (("train", "no-such.jsonl", "--name", "other"), "no-such.jsonl"),
        (("train", "rows.jsonl", "--name", "other", "--rank", "0"), "rank"),
        (("list", "--base"), "--base"),
    ],
)
def test_what_cannot_be_is_said_with_the_value_and_what_to_do(
    plural: Plural, home: Path, words: tuple[str, ...], told: str
) -> None:
    code, _, problems = plural(*words)
    assert code == 2
    assert told in problems
    assert [path.name for path in (home / "library").iterdir() if not path.name.startswith(".")] == ["echo"]


def test_a_bad_line_is_named_and_nothing_is_trained(plural: Plural, home: Path) -> None:
    (home / "bad.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n')
    code, out, _ = plural("train", "bad.jsonl", "--name", "bad", "--json")
    assert code == 2
    assert "line 2" in json.loads(out)["message"]
    assert not (home / "library" / "bad").exists()


def test_an_interrupted_training_says_how_to_go_on(plural: Plural, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt("Stopped; the checkpoint of step 7 is kept.")

    words = ("train", "rows.jsonl", "--name", "halted", "--max-steps", "3")
    with monkeypatch.context() as cut:
        cut.setattr(training, "evaluate", interrupted)
        code, _, problems = plural(*words)
    assert code == 130
    assert "step 7 is kept" in problems
    code, out, _ = plural(*words, "--resume", "--json")
    assert code == 0
    stages = [json.loads(line) for line in out.splitlines()]
    assert not [stage for stage in stages if "of" in stage["facts"]]  # what was trained is only scored
    assert stages[-1]["stage"] == "publishing"
    shutil.rmtree(home / "library" / "halted")


def test_a_school_is_trained_at_once_and_who_diverges_is_named_at_the_end(plural: Plural, home: Path) -> None:
    table = '[{}]\ndata = "rows.jsonl"\n{}\n'
    lessons = {"early": "rank = 2", "late2": "activated = true", "wild": "alpha = 1e38\nlearning_rate = 0.5"}
    (home / "school.toml").write_text("max_steps = 6\n" + "".join(table.format(*each) for each in lessons.items()))
    code, out, _ = plural("train", "school.toml", "--json")
    assert code == 1
    *stages, error = map(json.loads, out.splitlines())
    assert "wild" in error["message"]
    assert "0.5" in error["message"]
    losses = [(stage["name"], stage["facts"]["step"]) for stage in stages if "of" in stage["facts"]]
    assert losses.index(("late2", 1)) < losses.index(("early", 2))
    assert [stage["name"] for stage in stages if stage["stage"] == "publishing"] == ["early", "late2"]
    for name in ("early", "late2"):
        shutil.rmtree(home / "library" / name)
    assert not (home / "library" / "wild").exists()


def test_a_sweep_publishes_the_best_candidate_and_its_card_names_the_others(plural: Plural, home: Path) -> None:
    words = ("train", "rows.jsonl", "--name", "swept", "--sweep", "learning_rate=1e-5,1e-2,1e-3", "--max-steps", "8")
    code, _, told = plural(*words)
    assert code == 0, told
    assert "swept--2: learning_rate=0.01" in told
    assert "swept: rung 1 of 2: 2 of 3 go on" in told
    assert "swept--2 won among 3 candidates" in told
    assert "stopped at rung 1" in told
    assert [path.name for path in (home / "library").glob("swept*")] == ["swept"]
    card = json.loads(plural("show", "swept", "--json")[1])
    best, second, third = card["lineage"]["sweep"]
    assert best["settings"] == {"learning_rate": 0.01}
    assert best["steps"] == 8
    assert best["loss"] < second["loss"] < third["loss"]
    assert card["lineage"]["settings"]["learning_rate"] == 0.01
    assert "the best of 3 candidates: learning_rate 0.01" in plural("show", "swept")[1]
    shutil.rmtree(home / "library" / "swept")
    code, _, told = plural("train", "rows.jsonl", "--sweep", "rank=4,four")
    assert (code, "rank is 'four'" in told) == (2, True)


@pytest.mark.usefixtures("trained")
def test_a_specialist_is_trained_further_on_preferences_as_what_it_is(plural: Plural, home: Path) -> None:
    rows = [{"prompt": f"{n} or {n + 1}?", "chosen": f"sum {n}.", "rejected": "none"} for n in range(200, 230)]
    (home / "taste.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ("train", "taste.jsonl", "--from", "echo")
    code, out, problems = plural(*words, "--beta", "0.2", "--max-steps", "4", "--json")
    assert code == 0, problems
    looks = [facts for line in out.splitlines() if "holdout_loss" in (facts := json.loads(line)["facts"])]
    assert looks[-1]["accuracy"] is not None
    old, card = (json.loads(plural("show", name, "--json")[1]) for name in ("echo", "taste"))
    assert card["lineage"]["parent"] == old["digest"]
    assert card["lineage"]["settings"]["beta"] == 0.2
    for key in ("purpose", "examples", "output"):
        assert card[key] == old[key]
    # What the first one was trained on is known to the second one, too.
    shutil.copy(home / "rows.jsonl", home / "old.jsonl")
    code, out, _ = plural("eval", "taste", "--data", "old.jsonl", "--json")
    assert (code, "repeats line" in json.loads(out)["message"]) == (2, True)
    shutil.rmtree(home / "library" / "taste")
    # Only rows that it was not trained on are held out; where there are none, nothing is trained.
    held = (home / "library" / "echo" / "heldout.jsonl").read_text()
    asked = {json.loads(line)["messages"][0]["content"] for line in held.splitlines()}
    code, _, problems = plural("train", "rows.jsonl", "--name", "again", "--from", "echo", "--max-steps", "1", "--json")
    assert code == 0, problems
    assert (home / "library" / "again" / "heldout.jsonl").read_text() == held
    shutil.rmtree(home / "library" / "again")
    every = map(json.loads, (home / "rows.jsonl").read_text().splitlines())
    rows = [row for row in every if row["prompt"] not in asked]
    (home / "old.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = plural("train", "old.jsonl", "--name", "again", "--from", "echo", "--json")
    assert (code, "what echo was trained on" in json.loads(out)["message"]) == (2, True)
    code, out, _ = plural("train", "taste.jsonl", "--from", "ecko", "--json")
    assert (code, "echo" in json.loads(out)["hint"]) == (2, True)


def test_practice_is_a_command(plural: Plural, home: Path) -> None:
    (home / "check.py").write_text("def right(row, answer):\n    return answer == row['digit']\n")
    rows = [{"prompt": f"no {n}: which digit?", "digit": "1"} for n in range(30)]
    (home / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (home / "digits.json").write_text('["2", "0", "1"]')
    words = ("improve", "digit", "prompts.jsonl", "--checker", "check.py:right", "--contract", "digits.json")
    code, out, problems = plural(*words, "--learning-rate", "0.01", "--max-steps", "20", "--json")
    assert code == 0, out + problems
    stages = [json.loads(line) for line in out.splitlines()]
    rates = [one["facts"]["value"] for one in stages if one["stage"].endswith("held-out prompts") and one["facts"]]
    assert (rates[0], rates[-1]) == (0, 1)
    assert stages[-1]["stage"] == "publishing"
    code, out, _ = plural("ask", "--to", "digit", "no 77: which digit?", "--json")
    assert json.loads(out.splitlines()[-1])["answer"] == "1"
    code, out, _ = plural("improve", "digit", "prompts.jsonl", "--checker", "check.py:wrong", "--json")
    assert (code, "It has: right" in json.loads(out)["hint"]) == (2, True)
    shutil.rmtree(home / "library" / "digit")


def test_the_table_shows_every_specialist(plural: Plural, home: Path) -> None:
    shutil.copy(home / "rows.jsonl", home / "second.jsonl")
    code, _, told = plural("train", "rows.jsonl", "second.jsonl", "--name", "first", "--max-steps", "3")
    assert code == 0, told
    for name in ("first", "second"):
        assert f"{name}: in the network" in told
        assert f"{name}: no contract:" in told
        assert f"{name}: scoring the specialist: " in told
        assert f"{name} 3/3" in told
        shutil.rmtree(home / "library" / name)
    assert "held-out tokens/s left contract score" in told
    assert "none 0.00, base 0.00" in told


def test_bad_lines_of_all_files_are_named_at_once(plural: Plural, home: Path) -> None:
    for name in ("bad", "worse"):
        (home / f"{name}.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n')
    code, out, _ = plural("train", "bad.jsonl", "rows.jsonl", "worse.jsonl", "--json")
    assert code == 2
    message = json.loads(out)["message"]
    assert message.count("line 2") == 2
    assert "bad.jsonl" in message
    assert "worse.jsonl" in message


def test_rows_that_are_longer_than_the_context_are_named_at_once_in_all_files(plural: Plural, home: Path) -> None:
    long = {"prompt": "a" * 1100, "answer": "b"}
    for name, place in (("long", 2), ("longer", 5)):
        rows = [{"prompt": f"{name} {n}?", "answer": f"{n}."} for n in range(20)]
        rows[place - 1] = {**long, "prompt": long["prompt"] + name}
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    test = [{"prompt": "short?", "answer": "b"}, long]
    (home / "test.jsonl").write_text("\n".join(map(json.dumps, test)))
    tables = '[long]\ndata = "long.jsonl"\n[longer]\ndata = "longer.jsonl"\ntest = "test.jsonl"\n'
    (home / "school.toml").write_text(tables)
    code, out, _ = plural("train", "school.toml", "--json")
    assert code == 2
    told = json.loads(out)
    for line, file in ((2, "long.jsonl"), (5, "longer.jsonl"), (2, "test.jsonl")):
        assert re.search(rf"line {line}: has 11\d\d tokens; the context of \S+ is 1024 \(\S*{file}\)", told["message"])
    assert "Nothing was trained" in told["hint"]
    assert not {"long", "longer"} & set(os.listdir(home / "library"))
    code, out, _ = plural("train", "rows.jsonl", "--name", "tested", "--test", "test.jsonl", "--json")
    assert (code, "line 2: has 11" in json.loads(out)["message"]) == (2, True)


def test_the_base_is_shown_examples_only_where_they_fit_into_the_context(plural: Plural, home: Path) -> None:
    for name, width in (("narrow", 20), ("wide", 220)):
        rows = [{"prompt": f"{n} {'a' * width}?", "answer": f"{n * n}."} for n in range(24)]
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ("train", "narrow.jsonl", "wide.jsonl", "--max-steps", "1", "--contract", "none", "--json")
    code, out, problems = plural(*words)
    assert code == 0, out + problems
    for name, ways in (("narrow", {"zero-shot", "4-shot"}), ("wide", {"zero-shot"})):
        card = json.loads((home / "library" / name / "specialist.json").read_text())
        assert {score["by"] for score in card["scores"]["base"]} == ways
        shutil.rmtree(home / "library" / name)


def test_a_dialogue_with_calls_is_trained_on(plural: Plural, home: Path) -> None:
    """Calls lie in what is asked, too; where all rows have the same tool, the base is shown how it is called."""
    add = {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}},
    }

    def row(n: int) -> dict[str, Any]:
        call = {"id": "1", "name": "add", "arguments": {"n": n}}
        asked = [{"role": "user", "content": f"add {n}"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        return {"messages": [*asked, {"role": "tool", "content": str(n), "tool_call_id": "1"},
                             {"role": "assistant", "content": f"{n}."}], "tools": [add]}  # fmt: skip

    (home / "calls.jsonl").write_text("\n".join(json.dumps(row(n)) for n in range(30)))
    asked = [{**row(n), "messages": row(n)["messages"][:2]} for n in range(50, 75)]
    (home / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    code, out, problems = plural("train", "calls.jsonl", "--name", "adder", "--max-steps", "2", "--json")
    assert code == 0, out + problems
    words = ("eval", "adder", "--data", "asked.jsonl", "--checker", "toolcall", "--rows", "6", "--json")
    code, out, problems = plural(*words)
    assert code == 0, out + problems
    scores = json.loads(out.splitlines()[-1])["scores"]
    on = {who: {score["by"] for score in found if score["on"] == "asked.jsonl"} for who, found in scores.items()}
    assert on == {"base": {"zero-shot", "4-shot"}, "free": {"zero-shot"}, "specialist": {"must call"}}
    shutil.rmtree(home / "library" / "adder")


def test_doctor_looks_at_everything(plural: Plural) -> None:
    code, out, _ = plural("doctor", "--json")
    assert code == 0
    findings = {finding["what"]: finding for finding in json.loads(out)}
    assert findings.keys() >= {"software", "threads", "native kernels", "base model", "specialists", "library", "cache"}
    assert findings["base model"]["state"] == "ok"
    assert "base model" in plural("doctor")[1]
    assert plural("doctor", "--base", "/nowhere")[1].count("bad") == 1


@pytest.mark.usefixtures("trained")
async def test_the_network_is_served_over_mcp(plural: Plural) -> None:
    """A process of its own, as another program's agent starts it; its tools answer as the command does."""
    events = [json.loads(line) for line in plural("ask", "--to", "echo", "3 and 3?", "--json")[1].splitlines()]
    async with toolbox.mcp_tools(command=MCP, env=settings(), seconds=120) as tools:
        assert [each.name for each in tools] == ["ask_network", "echo"]
        assert tools[1].description == "Adds small numbers."
        assert await tools[1].ainvoke({"input": "3 and 3?"}) == events[-1]["answer"]
        assert isinstance(await tools[0].ainvoke({"request": "3 and 3?"}), str)


MCP = [sys.executable, "-m", "plural.cli", "mcp"]
SHOP = """
from plural.agents import Agent, mark, tool
from plural.teams import Team, patterns
from plural.testing import ScriptedModel

@tool
def price(item: str) -> str:
    \"\"\"What an item costs.\"\"\"
    return f"{item}: 3 euros"

@mark(approval=True)
@tool
def order(item: str) -> str:
    \"\"\"Order an item.\"\"\"
    return item

def shop(network):
    clerk = Agent("clerk", ScriptedModel(["At once."] * 9), description="Serves customers.")
    writers = [Agent(name, ScriptedModel([f"{name} says yes."] * 9)) for name in ("ann", "bob")]
    team = Team("writers", writers, patterns.round_robin(["ann", "bob"], rounds=1), description="Write.")
    return [clerk, team, price]

buyer = Agent("buyer", ScriptedModel([]), tools=[order])
"""


def settings(*more: Path) -> dict[str, str]:
    """What another program's agent starts the command with."""
    own = {name: value for name, value in os.environ.items() if name.startswith(("PLURAL_", "PYTHON", "OMP_"))}
    return own | {"PYTHONPATH": os.pathsep.join([*map(str, more), *sys.path])}


@pytest.mark.usefixtures("plural")
async def test_agents_and_teams_of_ones_own_are_served_over_mcp(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    command = [*MCP, "--offer", "shop:shop"]
    async with toolbox.mcp_tools(command=command, env=settings(tmp_path), seconds=120) as tools:
        served = {each.name: each for each in tools}
        assert list(served)[-3:] == ["clerk", "writers", "price"]
        assert served["clerk"].description == "Serves customers."
        assert await served["clerk"].ainvoke({"input": "A hammer."}) == "At once."
        assert await served["writers"].ainvoke({"input": "Well?"}) == "bob says yes."
        assert await served["price"].ainvoke({"item": "nail"}) == "nail: 3 euros"


@pytest.mark.parametrize(
    ("name", "said"),
    [("shop:nothing", "cannot be offered"), ("shop:buyer", "cannot be a tool"), ("shop:order", "waits for approval")],
)
def test_what_mcp_cannot_serve_is_said_at_once(
    plural: Plural, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    code, _, told = plural("mcp", "--offer", name)
    assert code == 2
    assert said in told


@pytest.mark.usefixtures("plural")
async def test_mcp_over_http_says_where_it_is() -> None:
    process = await asyncio.create_subprocess_exec(
        *MCP, "--port", "0", env=os.environ | settings(), stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        told = ""
        while not (found := re.search(r"MCP at (http://127\.0\.0\.1:\d+/mcp)", told)):
            line = await asyncio.wait_for(process.stderr.readline(), 120)
            assert line, told
            told += line.decode()
        async with toolbox.mcp_tools(url=found[1], seconds=120) as tools:
            assert tools[0].name == "ask_network"
            assert isinstance(await tools[0].ainvoke({"request": "3 and 3?"}), str)
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 60)


def test_a_run_is_listed_played_back_branched_and_gone_on_with(plural: Plural) -> None:
    _, told, _ = plural("ask", "--json", "--to", "base", "Say something.")
    code, listed, _ = plural("runs", "--json")
    run = json.loads(listed.splitlines()[0])
    assert (code, run["status"], run["title"]) == (0, "finished", "Say something.")
    assert plural("replay", run["id"], "--json") == (0, told, "")
    entries = [json.loads(line) for line in plural("show-run", run["id"][:6], "--json")[1].splitlines()]
    assert [entry["seq"] for entry in entries] == list(range(run["entries"]))
    begun = next(entry["seq"] for entry in entries if entry["kind"] == "ModelCalled")
    code, forked, said = plural("fork", run["id"], "--at", str(begun + 2))  # in the middle of what the model says
    assert (code, said) == (0, f"plural resume {forked.strip()}")
    assert forked.strip() in plural("runs")[1]
    code, again, _ = plural("resume", forked.strip(), "--json")
    events = [json.loads(line) for line in told.splitlines()]
    assert code == 0
    timeless = [{**json.loads(line), "seconds": 0} for line in again.splitlines()]
    assert timeless == [{**event, "seconds": 0} for event in events]  # greedy: the same tokens again


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["replay", "nothing"], "There is no run 'nothing'"),
        (["resume", "nothing"], "There is no run 'nothing'"),
        (["runs", "--journal", "none"], "There are no runs without a journal"),
        (["runs", "--journal", "mongodb://here"], "is no journal"),
    ],
)
def test_runs_that_are_not_there_are_said(plural: Plural, words: list[str], said: str) -> None:
    code, _, told = plural(*words)
    assert code == 2
    assert said in told


@pytest.mark.usefixtures("trained")
def test_another_specialist_goes_on_with_a_branch(plural: Plural) -> None:
    def answer(lines: str) -> str:
        return str(json.loads(lines.splitlines()[-1])["answer"])

    by_base = plural("ask", "--json", "--to", "base", "3 and 3?")[1]
    run = json.loads(plural("runs", "--json")[1].splitlines()[0])["id"]
    branch = plural("fork", run, "--at", "1", "--with", "echo")[1].strip()
    code, by_both, problems = plural("resume", branch, "--json")
    assert code == 0, problems
    assert answer(by_both) == answer(plural("ask", "--json", "--to", "echo", "3 and 3?")[1]) != answer(by_base)
    assert answer(plural("replay", branch, "--json")[1]) == answer(by_both)


@pytest.mark.usefixtures("trained")
def test_the_router_learns_from_a_person_and_from_runs(plural: Plural, home: Path) -> None:
    plural("ask", "--json", "--to", "echo", "5 and 5?")
    run = json.loads(plural("runs", "--json")[1].splitlines()[0])["id"]
    assert json.loads(plural("correct", run, "base", "--json")[1]) == {"lessons": 1}
    assert json.loads(plural("correct", run, "base", "--json")[1]) == {"lessons": 0}
    assert json.loads(plural("learn", "--sure", "1", "--json")[1])["lessons"] >= 1
    lessons = [json.loads(line) for line in (home / "library" / "lessons.jsonl").read_text().splitlines()]
    assert {"text": "5 and 5?", "label": "base", "by": "person", "run": run} in lessons
    assert {"text": "5 and 5?", "label": "echo", "by": "asked", "run": run} in lessons
    code, _, told = plural("correct", run, "nobody")
    assert code == 2
    assert "No specialist is called 'nobody'" in told
