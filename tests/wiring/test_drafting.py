"""`plural draft` and `plural run` as a person types them, on a tiny base: shown, saved, edited, run, resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models import tiny
from tests.typed import Plural, typed_at, write_sums

# A chat model that drafts and works, stateless, so that a run can go on in another process.
CHAT = """
import json
from plural.testing import ScriptedModel

def reply(messages):
    asked = str(messages[-1].content)
    if "Name the agents." in asked:
        agent = dict(description="writes", prompt="You write.", tools=["calculate"], suggestions="-")
        return json.dumps({"agents": [dict(agent, name="poet", specialist="base")]})
    if "Write the plan" in asked:
        steps = [dict(task="Write #1.", agents=["poet"], inputs=[], expects="a line"),
                 dict(task="Make it better.", agents=["poet"], inputs=[1], expects="a line")]
        return json.dumps({"steps": steps})
    if "Is it good as it is?" in asked:
        return json.dumps({"reason": "-", "good": True, "suggestions": "-"})
    if "need to know?" in asked:
        return json.dumps({"needed": "All of it."})
    if "Is it what was expected?" in asked:
        return json.dumps({"thought": "-", "done": True, "better": "-"})
    if "What now" in asked:
        return json.dumps({"reason": "-", "good": True, "next": "go on", "feedback": "-"})
    return "Better tea." if "Make it better." in asked else "Tea."

chat = ScriptedModel([reply] * 1000)
number = 7
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny.save_small(folder / "base")
    (folder / "drafting_chat.py").write_text(CHAT)
    write_sums(folder / "sums.jsonl")
    return folder


@pytest.fixture
def plural(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plural:
    return typed_at(home, monkeypatch, capsys, max_tokens=4)


def test_a_chat_model_drafts_a_team_that_is_edited_run_and_played_back(plural: Plural, home: Path) -> None:
    by = ("--by", "drafting_chat:chat")
    code, out, problems = plural("draft", "A line on tea.", *by, "--save", "team.yaml")
    assert code == 0, problems
    assert "plan observer decides verdict" in " ".join(out.split())
    assert 's2["2. poet: Make it better."]' in out
    text = (home / "team.yaml").read_text()
    assert "task: 'Write #1.'" in text  # in quotes, or YAML would leave #1 out
    (home / "team.yaml").write_text(text.replace("You write.", "You write verses."))
    code, out, problems = plural("run", "team.yaml", *by, "--json")
    assert code == 0, problems
    assert json.loads(out.splitlines()[-1])["answer"] == "Better tea."
    code, listed, _ = plural("runs", "--json")
    name = json.loads(listed.splitlines()[0])["id"]
    assert plural("replay", name, "--json")[1] == out
    assert plural("resume", name, *by, "--json")[1] == out
    code, _, problems = plural("resume", name)
    assert code == 2
    assert "was begun by drafting_chat:chat. Give --by" in problems
    kept = [json.loads(line) for line in plural("memory", "list", "--json")[1].splitlines()]
    assert [each["text"] for each in kept] == ["A line on tea.\nBetter tea."]
    assert "A line on tea.\\nBetter tea." in plural("draft", "A line on tea.", *by, "--json")[1]


def test_the_ablations_are_flags(plural: Plural, home: Path) -> None:
    flags = ("--no-observers", "--no-refinement", "--no-memory")
    code, out, problems = plural("draft", "Tea.", "--by", "drafting_chat:chat", *flags, "--json", "--save", "bare.yaml")
    assert code == 0, problems
    *way, made = map(json.loads, out.splitlines())
    assert [each["by"] for each in way] == ["planner", "planner"]
    assert not any(made["ways"][flag] for flag in ("observers", "refinement", "memory"))
    _, out, _ = plural("run", "bare.yaml", "--by", "drafting_chat:chat", "--json")
    assert "Decided" not in out


def test_a_chat_model_has_a_price(plural: Plural, home: Path) -> None:
    """What it plans and what it writes is paid for; the run remembers the price."""
    by, price = ("--by", "drafting_chat:chat"), ("--price", "read=1e6,written=2e6")
    code, _, problems = plural("draft", "Milk.", *by, *price, "--budget", "money=3")
    assert (code, "drafting has used up its money" in problems) == (1, True)
    assert plural("draft", "Milk.", *by, *price, "--no-memory", "--save", "milk.yaml")[0] == 0
    code, out, problems = plural("run", "milk.yaml", *by, *price, "--json")
    assert code == 0, problems
    ended = json.loads(out.splitlines()[-1])
    usage = ended["usage"]
    assert ended["money"] == pytest.approx(usage["prompt"] + 2 * usage["completion"])
    name = json.loads(plural("runs", "--json")[1].splitlines()[0])["id"]
    code, forked, problems = plural("fork", name, "--at", "1", "--json")
    assert code == 0, problems
    code, again, problems = plural("resume", json.loads(forked)["run"], *by, "--json")
    assert code == 0, problems
    assert json.loads(again.splitlines()[-1])["money"] == pytest.approx(ended["money"])


@pytest.mark.parametrize(
    ("price", "told"),
    [
        ("read", "'read' in --price is no price"),
        ("paid=3", "'paid=3' in --price is no price"),
        ("read=-1", "read of a price is -1.0"),
        ("written=nan", "written of a price is nan"),
    ],
)
def test_what_is_no_price_is_refused(plural: Plural, price: str, told: str) -> None:
    code, _, problems = plural("draft", "Tea.", "--by", "drafting_chat:chat", "--price", price)
    assert (code, told in problems) == (2, True)


def test_the_planner_specialist_has_no_price(plural: Plural) -> None:
    code, _, problems = plural("draft", "Tea.", "--price", "read=1")
    assert (code, "The planner specialist has no price" in problems) == (2, True)


def test_a_missing_skill_is_named_settled_or_trained(plural: Plural, home: Path) -> None:
    code, out, problems = plural("draft", "3 and 4?")
    assert code == 2
    assert "missing" in out
    assert "No specialist fits: 3 and 4?." in problems
    assert "--examples FILE" in problems
    code, out, _ = plural("draft", "3 and 4?", "--settle", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["agents"][0]["specialist"] == "base"
    code, out, problems = plural("draft", "3 and 4?", "--examples", "sums.jsonl", "--save", "sums.yaml")
    assert code == 0, problems  # it is trained, and the draft goes on with it
    assert "sums (by the router" in out
    card = json.loads(plural("show", "sums", "--json")[1])
    assert card["purpose"] == "3 and 4?"
    assert asked(plural("run", "sums.yaml", "--json")) == [("sums", "3 and 4?")]
    code, out, problems = plural("run", "sums.yaml", "5 and 6?")
    assert (code, out) == (2, "")
    assert "sums would work on that and hear nothing of '5 and 6?'. Write {task} into a step" in problems
    text = (home / "sums.yaml").read_text()
    (home / "sums.yaml").write_text(text.replace("- task: 3 and 4?", "- task: 'What is {task}'"))
    assert asked(plural("run", "sums.yaml", "5 and 6?", "--json")) == [("sums", "What is 5 and 6?")]
    name = json.loads(plural("runs", "--json")[1].splitlines()[0])["id"]
    assert asked(plural("resume", name, "--json")) == [("sums", "What is 5 and 6?")]


def asked(said: tuple[int, str, str]) -> list[tuple[str, str]]:
    """Who was asked what in a run that went well."""
    code, out, problems = said
    assert code == 0, problems
    events = [json.loads(line) for line in out.splitlines()]
    return [(each["agent"], each["task"]) for each in events if each["event"] == "StepStarted"]


@pytest.mark.parametrize(
    ("by", "told"),
    [
        ("nobody", "Nobody called 'nobody' can plan."),
        ("no_such_module:chat", "cannot be imported"),
        ("drafting_chat:number", "is 7, which is no chat model"),
    ],
)
def test_who_cannot_plan_is_refused(plural: Plural, by: str, told: str) -> None:
    code, _, problems = plural("draft", "Tea.", "--by", by)
    assert code == 2
    assert told in problems


def test_what_the_planner_specialist_does_not_take_is_refused(plural: Plural) -> None:
    code, _, problems = plural("draft", "Tea.", "--rounds", "2")
    assert (code, "The planner specialist takes no --rounds." in problems) == (2, True)


def test_a_file_that_cannot_be_carried_out_is_refused_before_anything_runs(plural: Plural, home: Path) -> None:
    (home / "bad.yaml").write_text("task: Tea.\nagents:\n- name: a\nsteps:\n- task: Go.\n  agents: [b]\n")
    code, out, problems = plural("run", "bad.yaml")
    assert (code, out) == (2, "")
    assert "line 6: steps[1].agents[1]: there is no agent 'b' (a)." in problems
