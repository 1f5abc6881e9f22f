"""A team as a file that a person edits: written, read, and refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plural.errors import PlanError, StorageError
from plural.teams.drafting import (
    Allowance,
    Draft,
    DraftedAgent,
    DraftedStep,
    Ways,
    from_yaml,
    mermaid,
    read_team,
    to_yaml,
    write_team,
)

TEAM = """\
task: Tea.
agents:
- name: poet
  description: writes
  tools: [calculate]
- name: clock
  specialist: cron
steps:
- task: Write.
  agents: [poet]
- task: "When? #1"
  agents: [clock]
  inputs: [1]
"""


def refused(text: str) -> str:
    with pytest.raises(PlanError) as raised:
        from_yaml(text, ["cron"], ["calculate"], source="team.yaml")
    return str(raised.value)


def test_a_team_is_read() -> None:
    team = from_yaml(TEAM, ["cron"], ["calculate"])
    assert [agent.specialist for agent in team.agents] == ["base", "cron"]
    assert team.steps[1].inputs == (1,)
    assert team.ways == Ways()


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("agents: [poet]", "agents: [poet, ghost]", "line 10: steps[1].agents[2]: there is no agent 'ghost'"),
        ("- name: clock", "- name: poet", "line 6: agents[2].name: two agents are called 'poet'"),
        ("[calculate]", "[telescope]", "line 5: agents[1].tools[1]: nobody has a tool 'telescope'"),
        ("cron", "chess", "line 7: agents[2].specialist: there is no specialist 'chess'"),
        ("inputs: [1]", "inputs: [2]", "line 13: steps[2].inputs: step 2 builds on itself, a cycle without a limit"),
        ("agents: [poet]", "agents: [poet]\n  inputs: [2]", "steps 1 and 2 build on each other, a cycle"),
        ("inputs: [1]", "inputs: [7]", "line 13: steps[2].inputs[1]: there is no step 7"),
        ("task: Tea.", "task: Tea.\nbudget: {steps: 0}", "line 2: budget.steps: it is 0: input should be"),
        ("task: Tea.", "task: Tea.\ntask: Rum.", "line 2: task: it is given twice"),
        ("  description: writes", "  role: writes", "line 4: agents[1].role: there is no such field"),
        ("task: Tea.", "# nothing", "task: it is missing"),
        ("agents: [poet]", "agents: []", "line 10: steps[1].agents: it is []"),
        ("task: Tea.", "task: Tea.\nways: {rounds: 0}", "line 2: ways.rounds: it is 0"),
        ('"When? #1"', "When? #1", "line 11: steps[2].task: YAML reads #1 as a comment; put the text in quotes"),
        ("- name: clock", "- name: cl ock", "line 6: agents[2].name: it is 'cl ock'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(was: str, becomes: str, told: str) -> None:
    assert told in refused(TEAM.replace(was, becomes, 1))


def test_all_that_is_wrong_is_said_at_once() -> None:
    said = refused(TEAM.replace("[calculate]", "[telescope]").replace("cron", "chess"))
    assert "line 5" in said
    assert "line 7" in said


@pytest.mark.parametrize("text", ["", "- a", "a: [", "tea"])
def test_what_is_no_team_is_refused(text: str) -> None:
    assert refused(text).startswith("team.yaml is ")


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        read_team(tmp_path / "none.yaml", [], [])
    with pytest.raises(StorageError, match="could not be written"):
        write_team(from_yaml(TEAM, ["cron"], ["calculate"]), tmp_path / "nowhere" / "team.yaml")


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    called = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    agents = [
        DraftedAgent(name=name, description=draw(texts), prompt=draw(texts), tools=draw(st.sampled_from([(), ("t",)])))
        for name in called
    ]
    steps = [
        DraftedStep(
            task=draw(texts),
            agents=tuple(draw(st.lists(st.sampled_from(called), min_size=1, max_size=3, unique=True))),
            inputs=tuple(draw(st.sets(st.integers(1, number - 1), max_size=2))) if number > 1 else (),
            expects=draw(st.just("") | texts),
        )
        for number in range(1, draw(st.integers(2, 5)))
    ]
    return Draft(
        task=draw(texts),
        agents=tuple(agents),
        steps=tuple(steps),
        ways=Ways(observers=draw(st.booleans()), rounds=draw(st.integers(1, 9))),
        budget=Allowance(steps=draw(st.none() | st.integers(1, 99)), seconds=draw(st.none() | st.floats(0.1, 1e6))),
        known=tuple(draw(st.lists(texts, max_size=2))),
    )


@given(drafts())
@example(Draft(task="a\x85b\u2028c", agents=(DraftedAgent(name="a"),), steps=(DraftedStep(task="a", agents=("a",)),)))
def test_what_is_written_is_read_again(draft: Draft) -> None:
    assert from_yaml(to_yaml(draft), [], ["t"]) == draft
    assert mermaid(draft).count("-->") == sum(len(step.inputs) for step in draft.steps)


def test_the_picture_shows_who_does_what() -> None:
    team = from_yaml(TEAM.replace("[poet]", "[poet, clock]"), ["cron"], ["calculate"])
    assert mermaid(team) == (
        'flowchart TD\n    s1{{"1. poet + clock: Write."}}\n    s2["2. clock: When? #35;1"]\n    s1 --> s2\n'
    )
    odd = Draft(task="x", agents=team.agents, steps=(DraftedStep(task='Say "<#1>"\nnow', agents=("poet",)),))
    assert "Say #quot;#lt;#35;1#gt;#quot; now" in mermaid(odd)
